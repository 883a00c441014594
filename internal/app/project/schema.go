package project

import (
	"encoding/json"
	"fmt"

	"github.com/invopop/jsonschema"
)

// JSONSchema describes both ways to write a variable's value.
func (EnvValue) JSONSchema() *jsonschema.Schema {
	props := jsonschema.NewProperties()
	props.Set("value", &jsonschema.Schema{Type: "string"})
	props.Set("secret", &jsonschema.Schema{Type: "boolean", Description: "Keep it in a Secret and never print it."})
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string"}, {Type: "number"}, {Type: "boolean"},
		{Type: "object", Properties: props, Required: []string{"value"}, AdditionalProperties: jsonschema.FalseSchema},
	}}
}

// Schema returns the JSON Schema of bight.yaml, for editors.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: false, ExpandedStruct: true}
	s := r.Reflect(&File{})
	s.Title = Name
	s.Description = "Overrides of what Bight reads from the source. Every field is optional."
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(b, '\n'), nil
}
