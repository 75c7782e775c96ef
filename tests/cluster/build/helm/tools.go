//go:build tools

// Package helm pins what is built from here.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
