// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"bytes"
	"io"
	"maps"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sticky/caddy-sticky/internal/testlog"
)

// Logs is what Caddy logged.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Captured is the log of this process.
var Captured Logs

// Write appends to the log.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// Close does nothing: the log outlives the configurations that write to it.
func (*Logs) Close() error { return nil }

// String returns what was logged.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Reset forgets what was logged.
func (l *Logs) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// Take returns what was logged and forgets it.
func (l *Logs) Take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// Fields are fields of a line of the log.
type Fields = testlog.Fields

// Lines returns the lines with this message, or of all messages if it is "", that
// have all of these fields.
func (l *Logs) Lines(message string, with ...Fields) []Fields {
	want := Fields{}
	for _, some := range with {
		maps.Copy(want, some)
	}
	if message != "" {
		want["msg"] = message
	}
	return testlog.Lines(l.String(), want)
}

// logWriter lets Caddy log into Captured.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.sticky_test",
		New: func() caddy.Module { return new(logWriter) },
	}
}

func (logWriter) String() string { return "sticky_test" }

func (logWriter) WriterKey() string { return "sticky_test" }

func (logWriter) OpenWriter() (io.WriteCloser, error) { return &Captured, nil }

func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
