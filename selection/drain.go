// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

import "sync"

// Drains is which targets of a scope an operator lets run empty: they keep their
// sessions and get no new ones. The zero value is ready for use.
type Drains struct {
	targets sync.Map // identity to struct{}
}

// Set lets a target drain, whether it exists now or later.
func (d *Drains) Set(identity string) { d.targets.Store(identity, struct{}{}) }

// Unset lets a target take new sessions again.
func (d *Drains) Unset(identity string) { d.targets.Delete(identity) }

// Has reports whether a target drains.
func (d *Drains) Has(identity string) bool {
	_, ok := d.targets.Load(identity)
	return ok
}
