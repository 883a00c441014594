package cli

import (
	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/app/plantext"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/session"
)

func (p *Program) planCommand() *cobra.Command {
	var t target
	var output string
	var manifests bool
	c := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Print what would be built and deployed, and where each fact was read",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := directory(args)
			if err != nil {
				return err
			}
			a, err := session.Plan(c.Context(), dir)
			if err != nil {
				return err
			}
			if manifests {
				objects, err := session.Manifests(a, t.environment(a.Name))
				if err != nil {
					return err
				}
				text, err := deploy.Manifests(objects, false)
				if err != nil {
					return err
				}
				_, err = p.Stdout.Write(text)
				return err
			}
			if output == "json" {
				return p.printJSON(a)
			}
			return plantext.Write(p.Stdout, a)
		},
	}
	c.Flags().StringVarP(&t.namespace, "namespace", "n", "", "namespace of the environment (default: <app>-<user>)")
	c.Flags().BoolVar(&manifests, "manifests", false, "print the Kubernetes objects")
	p.outputFlag(c, &output)
	return c
}

// environment is the namespace that the flags mean for an app.
func (t *target) environment(appName string) string {
	if t.namespace != "" {
		return t.namespace
	}
	return session.Environment(appName, userName())
}

func (p *Program) ejectCommand() *cobra.Command {
	var t target
	var force bool
	var source string
	c := &cobra.Command{
		Use:   "eject DIR",
		Short: "Write the Kubernetes objects into DIR as kustomize, to keep and change",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := directory([]string{source})
			if err != nil {
				return err
			}
			a, err := session.Plan(c.Context(), dir)
			if err != nil {
				return err
			}
			objects, err := session.Manifests(a, t.environment(a.Name))
			if err != nil {
				return err
			}
			files, err := deploy.Eject(args[0], t.environment(a.Name), objects, force)
			if err != nil {
				return err
			}
			printer := p.printer(false, nil)
			for _, f := range files {
				printer.Note("", "wrote "+args[0]+"/"+f)
			}
			printer.Note("", "images are named "+session.Unpushed+"; bight build prints what to put there")
			return printer.Close()
		},
	}
	c.Flags().StringVarP(&t.namespace, "namespace", "n", "", "namespace of the environment (default: <app>-<user>)")
	c.Flags().StringVar(&source, "source", ".", "directory of the source")
	c.Flags().BoolVar(&force, "force", false, "overwrite files that differ")
	return c
}
