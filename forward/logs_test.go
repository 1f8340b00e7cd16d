// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward_test

import (
	"bytes"
	"io"
	"maps"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// logs is what Caddy logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// captured is the log of this process.
var captured logs

// Write appends to the log.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// Close does nothing: the log outlives the configurations that write to it.
func (*logs) Close() error { return nil }

// String returns what was logged.
func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// reset forgets what was logged.
func (l *logs) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// take returns what was logged and forgets it.
func (l *logs) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// fields are fields of a line of the log.
type fields = testlog.Fields

// lines returns the lines with this message, or of all messages if it is "", that
// have all of these fields.
func (l *logs) lines(message string, with ...fields) []fields {
	want := fields{}
	for _, some := range with {
		maps.Copy(want, some)
	}
	if message != "" {
		want["msg"] = message
	}
	return testlog.Lines(l.String(), want)
}

// logWriter lets Caddy log into captured.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.sticky_test",
		New: func() caddy.Module { return new(logWriter) },
	}
}

func (logWriter) String() string { return "sticky_test" }

func (logWriter) WriterKey() string { return "sticky_test" }

func (logWriter) OpenWriter() (io.WriteCloser, error) { return &captured, nil }

func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
