// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

// Package closedset describes sets of names that nothing adds to while the program
// runs: labels of metrics, and values of placeholders.
//
// A set is an array, so that counters can be an array of the same length. Metrics,
// counters and the tables of the documentation follow from it.
package closedset

// Member is one name of a set.
type Member[T ~string] struct {
	Name T

	// Meaning is what the documentation says of it.
	Meaning string
}

// Index returns the place of a name, -1 if it is not in the set.
func Index[T ~string](set []Member[T], name T) int {
	for i := range set {
		if set[i].Name == name {
			return i
		}
	}
	return -1
}
