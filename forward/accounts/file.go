// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-sticky/caddy-sticky/internal/filewatch"
)

// openFile reads the accounts file, if there is one, and begins to watch it. A
// file that cannot be read is an error now; later what was known stays.
func (a *Set) openFile() error {
	a.roster.Store(newRoster(a.configured))
	if a.path == "" {
		return nil
	}
	file, content, err := filewatch.Open(a.path, filewatch.Interval)
	if err != nil {
		return fmt.Errorf("accounts_file: %w", err)
	}
	a.file = file
	a.load(content)
	file.Watch(a.changed)
	return nil
}

// changed is told what is in the file now.
func (a *Set) changed(content []byte, err error) {
	if err != nil {
		a.logger.Warn("accounts file cannot be read: its accounts stay as they were",
			zap.String("file", a.path), zap.Error(err))
		return
	}
	a.load(content)
	a.logger.Info("accounts file read again",
		zap.String("file", a.path), zap.Int("accounts", len(a.roster.Load().byName)-len(a.configured)))
	a.noted()
}

// load replaces the file's accounts. A bad line is reported and the rest is
// used. An account whose hash is still the same is the same account: its
// password stays remembered.
func (a *Set) load(content []byte) {
	before := a.roster.Load()
	taken := make(map[string]bool, len(a.configured))
	for _, acct := range a.configured {
		taken[acct.Name] = true
	}
	var list []*Entry
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		acct, err := a.readLine(line)
		if err == nil && acct != nil && taken[acct.Name] {
			err = fmt.Errorf("account %q is given twice", acct.Name)
		}
		if err != nil {
			a.logger.Warn("line of the accounts file left out",
				zap.String("file", a.path), zap.Int("line", number), zap.Error(err))
			continue
		}
		if acct == nil {
			continue
		}
		taken[acct.Name] = true
		if known, ok := before.byName[acct.Name]; ok && bytes.Equal(known.hash, acct.hash) {
			acct = known
		}
		list = append(list, acct)
	}
	a.roster.Store(newRoster(a.configured, list))
}

// readLine reads a line of an htpasswd file: name:hash. It returns nothing for
// an empty line and a comment. No error holds a hash.
func (a *Set) readLine(line string) (*Entry, error) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return nil, nil //nolint:nilnil // a line without an account
	}
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return nil, errors.New("it is not name:hash")
	}
	if looksLikeHash(name) {
		return nil, errSwapped
	}
	if !looksLikeHash(hash) {
		return nil, fmt.Errorf("account %q: the password is not a bcrypt or argon2id hash: make one with caddy hash-password", name)
	}
	return a.newAccount(name, hash)
}
