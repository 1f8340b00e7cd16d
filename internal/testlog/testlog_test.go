// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const log = `{"level":"info","msg":"one","sent":2097164,"ratio":0.5,"request":{"proto":"HTTP/2.0","method":"CONNECT"}}
WARNING: DATA RACE
{"level":"warn","msg":"one: more","error":"it is not \"one\"","empty":""}
{"level":"info","msg":"two","request":"none","sent":4}
{"level":"info","msg":"tw`

func TestLinesHaveAllFields(t *testing.T) {
	for name, c := range map[string]struct {
		want  Fields
		lines []string
	}{
		"all of JSON":           {Fields{}, []string{"one", "one: more", "two"}},
		"whole message":         {Fields{"msg": "one"}, []string{"one"}},
		"part of a message":     {Fields{"msg": "tw"}, nil},
		"large number":          {Fields{"sent": 2097164}, []string{"one"}},
		"beginning of a number": {Fields{"sent": 2}, nil},
		"fraction":              {Fields{"ratio": 0.5}, []string{"one"}},
		"two fields":            {Fields{"level": "info", "sent": 4}, []string{"two"}},
		"one field of two":      {Fields{"level": "warn", "sent": 4}, nil},
		"missing field":         {Fields{"absent": ""}, nil},
		"empty field":           {Fields{"empty": ""}, []string{"one: more"}},
		"object":                {Fields{"request": Fields{"method": "CONNECT"}}, []string{"one"}},
		"other object":          {Fields{"request": Fields{"method": "GET"}}, nil},
		"escaped text":          {Fields{"error": `it is not "one"`}, []string{"one: more"}},
	} {
		t.Run(name, func(t *testing.T) {
			var messages []string
			for _, line := range Lines(log, c.want) {
				messages = append(messages, line.Text("msg"))
			}
			require.Equal(t, c.lines, messages)
		})
	}
}

func TestTextOfAField(t *testing.T) {
	line := Lines(log, Fields{"msg": "one"})[0]
	require.Equal(t, "2097164", line.Text("sent"))
	require.Empty(t, line.Text("absent"))
}
