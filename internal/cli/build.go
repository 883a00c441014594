package cli

import (
	"context"

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
		Long: `Build the images of the services named, or of all, and push them. It takes this
machine's toolchains and no Docker; with --registry it takes no cluster either.`,
		RunE: func(c *cobra.Command, args []string) error {
			source, err := directory([]string{dir})
			if err != nil {
				return err
			}
			return p.runBuild(c.Context(), &t, source, args, output == "json")
		},
		ValidArgsFunction: completeServices(&dir, -1),
	}
	t.flags(c)
	t.registryFlag(c)
	sourceFlag(c, &dir)
	p.outputFlag(c, &output)
	return c
}

func (p *Program) runBuild(ctx context.Context, t *target, dir string, services []string, asJSON bool) error {
	printer := p.printer(asJSON, nil)
	defer printer.Close()
	var config *session.Config
	var err error
	if t.registry == "" {
		config, err = p.clusterConfig(ctx, t, dir, printer)
	} else {
		config, err = p.localConfig(t, dir, printer)
	}
	if err != nil {
		return err
	}
	config.By = "bight build"
	s, err := session.Open(ctx, *config)
	if err != nil {
		return err
	}
	images, err := s.Build(ctx, services)
	if err != nil {
		return err
	}
	table := &term.Table{Head: []string{"SERVICE", "IMAGE"}, Services: true}
	for _, image := range images {
		table.Rows = append(table.Rows, []string{image.Service, image.Image})
	}
	return printer.Data(images, table)
}
