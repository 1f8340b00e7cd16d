// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/caddy-sticky/caddy-sticky/forward/exits"
	"github.com/caddy-sticky/caddy-sticky/forward/message"
	"github.com/caddy-sticky/caddy-sticky/forward/pool"
	"github.com/caddy-sticky/caddy-sticky/forward/proxystatus"
)

// rotating sends a request through the exit of its session, and through another
// one where that fails and the request may be repeated.
type rotating struct{}

// RoundTrip implements http.RoundTripper.
func (rotating) RoundTrip(r *http.Request) (*http.Response, error) {
	c, ok := r.Context().Value(clientKey{}).(*client)
	if !ok {
		return nil, errors.New("request has no client")
	}
	message.DropTrailers(r.Trailer, c.nominated)
	hasBody := r.Body != nil && r.Body != http.NoBody
	c.repeatable = !hasBody && pool.IsIdempotent(r.Method)
	var res *http.Response
	err := c.attempt(r.Context(), func(ctx context.Context, t *pool.Target) (err error) {
		res, err = c.send(ctx, t, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	message.WithoutHopTrailers(res)
	return res, nil
}

// sending is what the transport reports of one attempt.
type sending struct {
	given    bool       // the request has a connection, so it may have been sent
	fresh    bool       // no other request used that connection before
	conn     *pool.Conn // that connection
	answered atomic.Bool
}

func (s *sending) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// net/http repeats a request by itself if the connection that it was given
		// had been closed: what was noted of that connection counts no more.
		GetConn: func(string) { s.given, s.fresh, s.conn = false, false, nil },
		GotConn: func(info httptrace.GotConnInfo) {
			s.given, s.fresh = true, !info.Reused
			s.conn, _ = info.Conn.(*pool.Conn)
		},
		GotFirstResponseByte: func() { s.answered.Store(true) },
	}
}

// send makes one attempt: it sends the request through one exit.
func (c *client) send(ctx context.Context, t *pool.Target, r *http.Request) (*http.Response, error) {
	transport := t.TransportFor(c.verified.Own(), r)
	var state sending
	out := c.outgoing(httptrace.WithClientTrace(ctx, state.trace()), t, r)
	res, err := exits.RoundTrip(t.Exit, transport, out)
	if err != nil {
		return nil, c.sendFailure(t, &state, err)
	}
	if err := checkResponse(out, res); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	if state.conn != nil && pool.AuthenticatesConnection(res.Header["Www-Authenticate"]) && res.StatusCode != http.StatusSwitchingProtocols {
		pool.Spend(res, state.conn)
	}
	return res, nil
}

// outgoing returns the request in the form that the exit needs.
func (c *client) outgoing(ctx context.Context, t *pool.Target, r *http.Request) *http.Request {
	out := t.Apart(ctx, r, c.wanted.Destination)
	if out.Body != nil {
		// A transport closes the body of an attempt that fails. The server closes
		// the body when the request ends.
		out.Body = io.NopCloser(out.Body)
	}
	form := c.wanted.ToOrigin
	if t.TakesAbsoluteForm() {
		form = c.wanted.ToProxy
	}
	u := form(r.Method)
	if made := out.URL.Host; made != r.URL.Host {
		u.Host = made // connections are kept by it
	}
	out.URL, out.Host = u, c.wanted.Authority
	return out
}

// sendFailure tells the failures of an exit from those of the client and of the
// destination.
func (c *client) sendFailure(t *pool.Target, state *sending, err error) error {
	netErr, isNet := errors.AsType[net.Error](err)
	failure, isExit := errors.AsType[*proxystatus.ExitError](err)
	switch {
	case c.body.IsBroken():
		return &proxystatus.Refusal{Kind: "http_request_error", Reason: "the request's body is malformed or incomplete"}
	case isExit:
		marked := *failure
		marked.Sent = state.given
		return &marked
	case !state.given:
		return err
	case isNet && netErr.Timeout() && !errors.Is(err, syscall.ETIMEDOUT):
		return &proxystatus.Refusal{Kind: "http_response_timeout", Reason: "the destination does not answer within the response timeout"}
	case strings.HasPrefix(textOf(err), "net/http: server response headers exceeded"):
		return &proxystatus.Refusal{Kind: "http_response_header_section_size", Reason: "the header of the destination's response is too long"}
	case isMalformed(err):
		return &proxystatus.Refusal{Kind: "http_protocol_error", Reason: "the destination's response is malformed"}
	case t.TakesAbsoluteForm() && state.fresh && !state.answered.Load() && !c.body.HasUnread():
		return &proxystatus.ExitError{Kind: proxystatus.KindOf(err), Err: err, Unclear: true, Sent: true}
	}
	return err
}

// checkResponse refuses a response that cannot be sent to a client.
func checkResponse(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode < http.StatusContinue:
		return &proxystatus.Refusal{Kind: "http_protocol_error", Reason: fmt.Sprintf("the destination answers with the status %03d", res.StatusCode)}
	case res.StatusCode == http.StatusSwitchingProtocols && r.Header.Get("Upgrade") == "":
		return &proxystatus.Refusal{Kind: "http_protocol_error", Reason: "the destination switches protocols, which the request did not ask for"}
	case res.StatusCode == http.StatusSwitchingProtocols && !strings.EqualFold(res.Header.Get("Upgrade"), r.Header.Get("Upgrade")):
		return &proxystatus.Refusal{Kind: "http_upgrade_failed", Reason: "the destination switches to another protocol than the request asked for"}
	}
	return nil
}

// malformed are the first words of the errors of net/http that say that a response
// is no HTTP. Most have no type.
var malformed = []string{
	"malformed HTTP", "unsupported transfer encoding", "too many transfer encodings",
	"bad Content-Length", "http: message cannot contain multiple Content-Length headers",
}

// isMalformed reports whether an error of a transport is about a response that is
// no HTTP.
func isMalformed(err error) bool {
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		return true
	}
	text := textOf(err)
	return slices.ContainsFunc(malformed, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// textOf returns the text of a transport's error without the prefix that some of
// them have.
func textOf(err error) string {
	return strings.TrimPrefix(err.Error(), "net/http: HTTP/1.x transport connection broken: ")
}
