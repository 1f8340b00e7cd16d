// SPDX-FileCopyrightText: The caddy-sticky authors
// SPDX-License-Identifier: Apache-2.0

package sticky_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-sticky/caddy-sticky/internal/e2e/program"
)

func TestMain(m *testing.M) {
	code := m.Run()
	program.Remove()
	os.Exit(code)
}

// The modules are those of the source, so that the test fails if a package with
// modules is no longer imported. A module that the test does not find in the
// source fails it as well.
func TestProgramHasItsModules(t *testing.T) {
	out, err := exec.Command(program.Caddy(t), "list-modules", "--skip-standard").Output()
	require.NoError(t, err)
	listed, _, found := strings.Cut(string(out), "\n\n  Non-standard modules:")
	require.True(t, found, string(out))
	require.ElementsMatch(t, modulesInSource(t), strings.Fields(listed))
}

func TestExamplesValidate(t *testing.T) {
	files, err := filepath.Glob("testdata/examples/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cmd := exec.Command(program.Caddy(t), "validate", "--config", file, "--adapter", "caddyfile")
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

// modulesInSource returns the IDs of the modules that the packages of this
// repository register. The module of internal/proxytest is for tests alone.
func modulesInSource(t *testing.T) []string {
	t.Helper()
	packages := make(map[string][]*ast.File) // by their directories
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && (name == "testdata" || name == "proxytest" || len(name) > 1 && name[0] == '.') {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
		return err
	}))
	var ids []string
	for dir, files := range packages {
		s := packageSource{constants: make(map[string]ast.Expr), ids: make(map[string]ast.Expr)}
		for _, file := range files {
			ast.Inspect(file, s.collect)
		}
		for _, registered := range s.registered {
			id := s.text(s.ids[registered])
			require.NotEmpty(t, id, "the ID of %s in %s is not found in the source", registered, dir)
			ids = append(ids, id)
		}
	}
	return ids
}

// packageSource is what the source of a package says about its modules.
type packageSource struct {
	constants  map[string]ast.Expr
	ids        map[string]ast.Expr // of the types that have a method CaddyModule
	registered []string            // types
}

// collect is for ast.Inspect.
func (s *packageSource) collect(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.ValueSpec:
		for i, value := range node.Values {
			s.constants[node.Names[i].Name] = value
		}
	case *ast.FuncDecl:
		if node.Name.Name != "CaddyModule" || node.Recv == nil {
			break
		}
		module := typeName(node.Recv.List[0].Type)
		ast.Inspect(node.Body, func(inner ast.Node) bool {
			if field, ok := inner.(*ast.KeyValueExpr); ok && typeName(field.Key) == "ID" {
				s.ids[module] = field.Value
			}
			return true
		})
	case *ast.CallExpr:
		if called, ok := node.Fun.(*ast.SelectorExpr); ok && called.Sel.Name == "RegisterModule" {
			s.registered = append(s.registered, typeName(node.Args[0]))
		}
	}
	return true
}

// text returns the value of a constant expression, "" if it is not known.
func (s *packageSource) text(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.BasicLit:
		value, _ := strconv.Unquote(e.Value)
		return value
	case *ast.Ident:
		return s.text(s.constants[e.Name])
	case *ast.BinaryExpr:
		return s.text(e.X) + s.text(e.Y)
	}
	return ""
}

// typeName returns the T of T, *T, T{}, &T{} and new(T), "" for others.
func typeName(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.UnaryExpr:
		return typeName(e.X)
	case *ast.CompositeLit:
		return typeName(e.Type)
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			return typeName(e.Args[0])
		}
	}
	return ""
}
