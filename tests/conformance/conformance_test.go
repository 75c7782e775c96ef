// Package conformance runs the Gateway API's own conformance suite, with what a bare node lacks beside it: somebody who
// gives Services of type LoadBalancer their addresses.
package conformance

import (
	"bytes"
	"flag"
	"io/fs"
	"net/netip"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
)

var balancers = flag.String("balancers", "", "Range of the addresses that Services of type LoadBalancer get; it must be routed to the node")

// TestConformance takes the suite's own flags.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	// Gateways take the names of Services as their addresses.
	name := gatewayv1.HostnameAddressType
	options.UsableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &name, Value: "infra-backend-v1.gateway-conformance-infra.svc.cluster.local"}}
	options.UnusableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &name, Value: "nowhere"}}
	if *balancers != "" {
		addresses, err := netip.ParsePrefix(*balancers)
		require.NoError(t, err)
		go func() {
			if err := balance(t.Context(), options.Clientset, addresses); err != nil && t.Context().Err() == nil {
				t.Errorf("no more addresses are given to Services: %v", err)
			}
		}()
	}
	options.ManifestFS = []fs.FS{injected(t)}
	conformance.RunConformanceWithOptions(t, options)
}

// edited has one file instead of another's.
type edited struct {
	fs.FS
	instead fstest.MapFS
}

func (files edited) Open(name string) (fs.File, error) {
	if _, ok := files.instead[name]; ok {
		return files.instead.Open(name)
	}
	return files.FS.Open(name)
}

// injected is the suite's manifests, with sidecars asked for in the mesh's namespaces. Only the mesh has them: what a sidecar says of an application that
// refuses connections is an answer to a gateway, which the suite takes for the lack of a retry.
func injected(t *testing.T) fs.FS {
	const manifest = "mesh/manifests.yaml"
	content, err := conformance.Manifests.ReadFile(manifest)
	require.NoError(t, err)
	label := []byte("    gateway-conformance: mesh")
	require.True(t, bytes.Contains(content, label), "%s has no namespace that could be labelled", manifest)
	content = bytes.ReplaceAll(content, label, append([]byte("    istio-injection: enabled\n"), label...))
	return edited{FS: &conformance.Manifests, instead: fstest.MapFS{manifest: {Data: content}}}
}
