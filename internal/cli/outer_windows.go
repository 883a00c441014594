package cli

import "context"

// become runs another program in place of this one.
func (p *Program) become(program string, args []string) error {
	return p.runInstead(context.Background(), program, args)
}
