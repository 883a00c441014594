package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/lazy"

	"github.com/bightdev/bight/internal/expr"
)

// Limits, as in admission.
const (
	maxExpression = 64 << 10
	maxMessage    = 5 << 10
)

// objectEnv has the variables of a ValidatingAdmissionPolicy, but for the
// authorizer, whom nobody can ask before there is a request.
func objectEnv() (*cel.Env, error) {
	return newEnv("object", "oldObject", "request", "params", "namespaceObject")
}

// changeEnv has the one variable of a ChangePolicy.
func changeEnv() (*cel.Env, error) { return newEnv("change") }

func newEnv(names ...string) (*cel.Env, error) {
	return expr.Env(names, cel.Variable("variables", cel.MapType(cel.StringType, cel.DynType)))
}

// program is a policy, ready to run.
type program struct {
	conditions  []compiled
	variables   []compiled
	validations []validationProgram
	broken      []broken
}

type compiled struct {
	name string
	line int
	prg  cel.Program
}

type validationProgram struct {
	compiled
	source  string
	message string
	dynamic *compiled // messageExpression
}

// broken is an expression that doesn't compile.
type broken struct {
	line int
	err  error
}

// verdict is a validation that is not kept, or that could not be evaluated.
type verdict struct {
	line    int
	source  string // the expression's text; "" of a match condition
	message string
	err     error
}

// compile compiles a policy's expressions; what is wrong with them is in broken.
func compile(env *cel.Env, p *policy) *program {
	out := &program{}
	add := func(e expression, want ...*cel.Type) compiled {
		prg, line, err := compileOne(env, e, want)
		if err != nil {
			out.broken = append(out.broken, broken{line, err})
		}
		return compiled{e.name, e.line, prg}
	}
	for _, e := range p.conditions {
		out.conditions = append(out.conditions, add(e, cel.BoolType))
	}
	for _, e := range p.variables {
		out.variables = append(out.variables, add(e))
	}
	for _, v := range p.validations {
		x := validationProgram{compiled: add(v.expression, cel.BoolType), source: v.text, message: v.message}
		if v.messageExpression.text != "" {
			m := add(v.messageExpression, cel.StringType)
			x.dynamic = &m
		}
		out.validations = append(out.validations, x)
	}
	return out
}

// compileOne returns a program, or an error and the line of the file that it is at.
func compileOne(env *cel.Env, e expression, want []*cel.Type) (cel.Program, int, error) {
	if len(e.text) > maxExpression {
		return nil, e.line, fmt.Errorf("the expression has more than %d bytes", maxExpression)
	}
	ast, issues := env.Compile(e.text)
	if issues.Err() != nil {
		line, err := e.syntax(issues.Errors()[0].Location.Line(), issues.Errors()[0].Location.Column(), issues.Errors()[0].Message)
		return nil, line, err
	}
	if out := ast.OutputType(); len(want) > 0 && !out.IsExactType(want[0]) && !out.IsExactType(cel.DynType) {
		return nil, e.line, fmt.Errorf("the expression is %s, and must be %s", out, want[0])
	}
	prg, err := env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, e.line, err
	}
	return prg, e.line, nil
}

// syntax places a compiler's complaint in the file, as far as YAML lets it.
func (e expression) syntax(line, column int, message string) (int, error) {
	message, _, _ = strings.Cut(message, " expecting {")
	if line < 1 {
		return e.line, errors.New(message)
	}
	// The end of the text may be on a line that has nothing on it.
	line = min(line, 1+strings.Count(strings.TrimSpace(e.text), "\n"))
	at := e.line
	if e.block {
		at += line - 1
	}
	return at, fmt.Errorf("%s (line %d of the expression, column %d)", message, line, column+1)
}

// budget is what the expressions of one policy may cost together on one object.
type budget struct{ left int64 }

var errBudget = errors.New("the policy's expressions cost more than what one policy may use: make them cheaper, or bound their loops")

func (b *budget) eval(ctx context.Context, c compiled, vars map[string]any) (ref.Val, error) {
	if b.left <= 0 {
		return nil, errBudget
	}
	v, details, err := c.prg.ContextEval(ctx, vars)
	if details != nil && details.ActualCost() != nil {
		b.left -= int64(*details.ActualCost())
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && strings.Contains(err.Error(), "cost limit exceeded"):
		b.left -= celconfig.PerCallLimit // the program stopped before it could say what it used
		return nil, errBudget
	case err != nil:
		return nil, err
	}
	return v, nil
}

// run evaluates a policy and returns the validations that are not kept. A policy
// whose conditions don't hold has no verdicts.
func (p *program) run(ctx context.Context, vars map[string]any) []verdict {
	b := &budget{left: celconfig.RuntimeCELCostBudget}
	vars["variables"] = p.lazyVariables(ctx, b, vars)
	for _, c := range p.conditions {
		v, err := b.eval(ctx, c, vars)
		if err != nil {
			return []verdict{{line: c.line, err: fmt.Errorf("match condition %s: %w", c.name, err)}}
		}
		if v != types.True {
			return nil
		}
	}
	var out []verdict
	for _, x := range p.validations {
		v, err := b.eval(ctx, x.compiled, vars)
		switch {
		case err != nil:
			out = append(out, verdict{line: x.line, source: x.source, err: err})
		case v == types.False:
			out = append(out, verdict{line: x.line, source: x.source, message: x.text(ctx, b, vars)})
		case v != types.True:
			out = append(out, verdict{line: x.line, err: fmt.Errorf("the expression is %s, and must be bool", v.Type().TypeName())})
		}
	}
	return out
}

// lazyVariables evaluates a variable when an expression first asks for it.
func (p *program) lazyVariables(ctx context.Context, b *budget, vars map[string]any) ref.Val {
	m := lazy.NewMapValue(types.NewObjectType("bight.dev.variables"))
	for _, c := range p.variables {
		m.Append(c.name, func(*lazy.MapValue) ref.Val {
			v, err := b.eval(ctx, c, vars)
			if err != nil {
				return types.NewErr("variable %s: %v", c.name, err)
			}
			return v
		})
	}
	return m
}

// text says what is wrong, in the policy's words where it has any.
func (x *validationProgram) text(ctx context.Context, b *budget, vars map[string]any) string {
	if x.dynamic != nil {
		if v, err := b.eval(ctx, *x.dynamic, vars); err == nil {
			if s, ok := v.Value().(string); ok && strings.TrimSpace(s) != "" && len(s) <= maxMessage && !strings.Contains(s, "\n") {
				return s
			}
		}
	}
	if x.message != "" {
		return x.message
	}
	return "this does not hold: " + strings.Join(strings.Fields(x.source), " ")
}
