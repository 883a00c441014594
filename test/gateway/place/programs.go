package place

import (
	"context"
	_ "embed"
)

//go:embed traefik.yaml
var traefik []byte

//go:embed doors.yaml
var doors []byte

// Traefik puts Traefik onto the cluster, given its program, and waits until its
// Gateway traefik in namespace traefik is programmed.
func (p *Place) Traefik(ctx context.Context, program string) error {
	return p.run(ctx, "traefik", program, traefik)
}

// Doors puts the Gateway that is made of doors onto the cluster, given this program. Its
// class is doors; it has no Gateway yet.
func (p *Place) Doors(ctx context.Context, program string) error {
	return p.run(ctx, "gateway", program, doors)
}

// run applies a manifest with an image of a program, and waits until that serves.
func (p *Place) run(ctx context.Context, name, program string, manifest []byte) error {
	ref, err := p.Push(ctx, name, program)
	if err != nil {
		return err
	}
	values := map[string]string{"IMAGE": ref}
	if err := p.Apply(ctx, manifest, values); err != nil {
		return err
	}
	return p.Ready(ctx, manifest, values)
}
