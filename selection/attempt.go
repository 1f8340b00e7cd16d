// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package selection

// Attempt is an attempt of a request that failed.
type Attempt[T Target] struct {
	Target T

	// Whole is true if the failure was not one of this target alone: the pool's
	// Spent may exclude all targets of the same gateway.
	Whole bool
}

// spender is a Pool that limits how many targets of one gateway a request tries.
type spender[T Target] interface {
	// Spent reports whether the request may not try the target, because the
	// target's gateway has failed in this request as often as it may.
	Spent(t T, tried []Attempt[T]) bool

	// Unspent returns all targets that are not spent, and those of the attempts.
	// It finds them without a look at each slot of a gateway.
	Unspent(tried []Attempt[T]) []T
}

func spent[T Target](pool Pool[T], t T, tried []Attempt[T]) bool {
	if len(tried) == 0 {
		return false
	}
	s, ok := pool.(spender[T])
	return ok && s.Spent(t, tried)
}

// unspent returns the targets that a request with these attempts may look at.
func unspent[T Target](pool Pool[T], tried []Attempt[T]) []T {
	if s, ok := pool.(spender[T]); ok && len(tried) > 0 {
		return s.Unspent(tried)
	}
	return pool.Targets()
}

// Tried reports whether one of the attempts was made at the target. Targets are
// the same if their identities are: a dynamic source of upstreams makes new
// targets each time.
func Tried[T Target](attempts []Attempt[T], t T) bool {
	for _, a := range attempts {
		if a.Target == t || a.Target.String() == t.String() {
			return true
		}
	}
	return false
}
