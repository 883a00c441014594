package cli

import (
	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) buildCommand() *cobra.Command {
	var t target
	var output, dir string
	c := &cobra.Command{
		Use:   "build [SERVICE...]",
		Short: "Build the services' images and push them; no Docker is needed",
		RunE: func(c *cobra.Command, args []string) error {
			source, err := directory([]string{dir})
			if err != nil {
				return err
			}
			config, err := p.sessionConfig(c, &t, source)
			if err != nil {
				return err
			}
			config.Printer = p.printer(output == "json", nil)
			defer config.Printer.Close()
			s, err := session.Open(c.Context(), *config)
			if err != nil {
				return err
			}
			images, err := s.Build(c.Context(), args)
			if err != nil {
				if session.IsReported(err) {
					return codedError{code: exitFailed, err: err, silent: true}
				}
				return err
			}
			table := &term.Table{Head: []string{"SERVICE", "IMAGE"}}
			for _, image := range images {
				table.Rows = append(table.Rows, []string{image.Service, image.Image})
			}
			return config.Printer.Data(images, table)
		},
	}
	t.flags(c)
	c.Flags().StringVar(&t.registry, "registry", "", "registry to push to (default: the one that the cluster announces)")
	c.Flags().StringVar(&dir, "source", ".", "directory of the source")
	p.outputFlag(c, &output)
	return c
}
