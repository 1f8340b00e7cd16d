// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are reserved in blocks. All blocks are below the ports that systems give
// to outgoing connections and to listeners on port 0 (Linux: from 32768).
// A block is enough for all tests that a process runs at the same time, so that
// a test that counts descriptors does not count the listener of another block.
const (
	firstBlock = 10_100
	blockSize  = 500
	blockCount = 44
)

// Port returns a port that is free, for TCP and for UDP. Until the test ends, no
// other call returns it, in this process or in another one that uses this
// package.
func Port(t testing.TB) int {
	t.Helper()
	port, err := reserved.take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reserved.put(port) })
	return port
}

// reserved are the ports of this process.
var reserved reservation

// reservation holds blocks of ports. Its process listens on the first port of
// each block, so that another process takes another block. The system ends the
// reservation with the process, however that ends.
type reservation struct {
	mu     sync.Mutex
	blocks []net.Listener
	// free are the ports that no test has. The port that was returned last is
	// taken last.
	free []int
}

// take returns a port that no test has and no program uses.
func (r *reservation) take() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range blockCount * blockSize {
		if len(r.free) == 0 {
			if err := r.growLocked(); err != nil {
				return 0, err
			}
		}
		port := r.free[0]
		r.free = r.free[1:]
		if unused(port) {
			return port, nil
		}
		// A program outside of these tests has it: it is no port of ours.
	}
	return 0, errors.New("no port is free")
}

// put gives a port back.
func (r *reservation) put(port int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, port)
}

// growLocked reserves one more block.
func (r *reservation) growLocked() error {
	var err error
	for _, i := range rand.Perm(blockCount) {
		first := firstBlock + i*blockSize
		var block net.Listener
		if block, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first)); err != nil {
			continue
		}
		r.blocks = append(r.blocks, block)
		for port := first + 1; port < first+blockSize; port++ {
			r.free = append(r.free, port)
		}
		return nil
	}
	return fmt.Errorf("no block of ports is free: %w", err)
}

// unused reports whether no program uses the port at any address.
func unused(port int) bool {
	address := fmt.Sprintf(":%d", port)
	stream, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer stream.Close()
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	return packets.Close() == nil
}
