package static

import "github.com/bightdev/bight/internal/app"

// Command returns what starts the service in its image, without building it.
func Command(s *app.Service) ([]string, error) { return command(s) }
