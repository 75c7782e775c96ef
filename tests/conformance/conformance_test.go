// Package conformance runs the Gateway API's own conformance suite, with what a bare node lacks beside it: somebody who
// gives Services of type LoadBalancer their addresses.
package conformance

import (
	"flag"
	"net/netip"
	"testing"

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
	conformance.RunConformanceWithOptions(t, options)
}
