package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/plantext"
	"github.com/bightdev/bight/internal/app/project"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/session"
)

func (p *Program) planCommand() *cobra.Command {
	var t target
	var o planOptions
	var output string
	c := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Print what would be built and deployed, and where each fact was read",
		Long: `Print what would be built and deployed of the app in DIR (default: here), and the
file and line that each fact was read from. It needs no cluster and changes nothing.
Questions that it ends with are answered in bight.yaml, which overrides any fact.`,
		Example: `  bight plan                   for people
  bight plan -o json           for programs
  bight plan --manifests       the Kubernetes objects
  bight plan --schema          the JSON Schema of bight.yaml, for editors`,
		Args: atMost(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			o.json = output == "json"
			switch {
			case o.schema && o.manifests:
				return usageError("--schema and --manifests are two answers: ask for one")
			case o.schema:
				return p.printSchema()
			}
			if err := t.check(); err != nil {
				return err
			}
			dir, err := directory(args)
			if err != nil {
				return err
			}
			return p.runPlan(c.Context(), &t, dir, o)
		},
		ValidArgsFunction: completeDirectories,
	}
	t.namespaceFlag(c)
	c.Flags().BoolVar(&o.manifests, "manifests", false, "print the Kubernetes objects")
	c.Flags().BoolVar(&o.schema, "schema", false, "print the JSON Schema of bight.yaml")
	p.outputFlag(c, &output)
	return c
}

type planOptions struct {
	manifests, schema, json bool
}

func (p *Program) printSchema() error {
	schema, err := project.Schema()
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(schema)
	return err
}

func (p *Program) runPlan(ctx context.Context, t *target, dir string, o planOptions) error {
	a, err := session.Plan(ctx, dir)
	switch {
	case err != nil:
		return err
	case o.manifests:
		return p.printManifests(a, t.environment(a.Name), o.json)
	case o.json:
		return p.printJSON(a)
	}
	return plantext.Write(p.Stdout, a)
}

func (p *Program) printManifests(a *app.App, environment string, asJSON bool) error {
	objects, err := session.Manifests(a, environment)
	if err != nil {
		return err
	}
	if !asJSON {
		text, err := deploy.Manifests(objects, false)
		if err != nil {
			return err
		}
		_, err = p.Stdout.Write(text)
		return err
	}
	list := struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{APIVersion: "v1", Kind: "List"}
	if list.Items, err = deploy.ManifestsJSON(objects, false); err != nil {
		return err
	}
	return p.printJSON(list)
}

func (p *Program) ejectCommand() *cobra.Command {
	var t target
	var o ejectOptions
	var output string
	c := &cobra.Command{
		Use:   "eject DIR",
		Short: "Write the Kubernetes objects into DIR as kustomize, to keep and change",
		Long: `Write the Kubernetes objects into DIR as a kustomize base, to keep and change. A
file that is there with other content is left alone unless --force is given; then
nothing is written at all. With -n, the kustomization names that namespace, else none.

Its images are built and pushed by bight build --registry REGISTRY, which prints what
to write into the kustomization.`,
		Args: exactlyOne("the directory to write to"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.check(); err != nil {
				return err
			}
			source, err := directory([]string{o.source})
			if err != nil {
				return err
			}
			o.json = output == "json"
			return p.runEject(c.Context(), &t, source, args[0], o)
		},
		ValidArgsFunction: completeDirectories,
	}
	t.namespaceFlag(c)
	sourceFlag(c, &o.source)
	c.Flags().BoolVar(&o.force, "force", false, "overwrite files that differ")
	p.outputFlag(c, &output)
	return c
}

type ejectOptions struct {
	source      string
	force, json bool
}

func (p *Program) runEject(ctx context.Context, t *target, source, dir string, o ejectOptions) error {
	a, err := session.Plan(ctx, source)
	if err != nil {
		return err
	}
	if len(a.Questions) > 0 {
		return &session.QuestionsError{Questions: a.Questions}
	}
	objects, err := session.Manifests(a, t.environment(a.Name))
	if err != nil {
		return err
	}
	files, err := deploy.Eject(dir, t.namespace, objects, o.force)
	if err != nil {
		return err
	}
	if o.json {
		return p.printJSON(struct {
			Dir   string   `json:"dir"`
			Files []string `json:"files"` // that were written
		}{dir, append([]string{}, files...)})
	}
	printer := p.printer(false, nil)
	for _, f := range files {
		printer.Note("", "wrote "+dir+"/"+f)
	}
	if len(files) == 0 {
		printer.Note("", fmt.Sprintf("everything in %s is as it should be", dir))
	}
	printer.Note("", "next: bight build --registry REGISTRY, and what it prints goes into images of "+dir+"/kustomization.yaml; then kubectl apply -k "+dir+" -n NAMESPACE")
	return printer.Close()
}
