package golang

import "github.com/bightdev/bight/internal/app"

// Command returns what starts the service in its image, without building it.
func Command(s *app.Service) []string { return []string{"./" + program(s)} }
