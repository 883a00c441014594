package cli

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (p *Program) versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: atMost(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return p.printJSON(struct {
					Version  string `json:"version"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
				}{p.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintln(p.Stdout, p.versionLine())
			return err
		},
	}
	p.outputFlag(c, &output)
	return c
}

// versionLine is what bight version and bight --version print.
func (p *Program) versionLine() string {
	return fmt.Sprintf("bight %s (%s, %s/%s)", p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// outputFlag adds -o, which has one value.
func (p *Program) outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "", "json for programs")
	complete(c, "output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if *output != "" && *output != "json" {
			return usageError("-o %s: use json, or leave it out", *output)
		}
		return run(c, args)
	}
}

func (p *Program) printJSON(v any) error {
	e := json.NewEncoder(p.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
