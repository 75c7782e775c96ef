package conformance

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// balance gives every Service of type LoadBalancer an address of the range, as a cloud's controller does. What leads
// packets for the address to endpoints is kube-proxy; the range must be routed to a node.
func balance(ctx context.Context, client kubernetes.Interface, addresses netip.Prefix) error {
	for ctx.Err() == nil {
		list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list services: %w", err)
		}
		for i := range list.Items {
			if err := assign(ctx, client, addresses, &list.Items[i]); err != nil {
				return err
			}
		}
		changes, err := client.CoreV1().Services("").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return fmt.Errorf("watch services: %w", err)
		}
		for change := range changes.ResultChan() {
			if service, ok := change.Object.(*corev1.Service); ok {
				if err := assign(ctx, client, addresses, service); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// assign gives a Service an address if it lacks one: that which it asks for, else a free one. A Service whose address
// cannot be had waits for ever, as in a cloud.
func assign(ctx context.Context, client kubernetes.Interface, addresses netip.Prefix, service *corev1.Service) error {
	waits := service.Spec.Type == corev1.ServiceTypeLoadBalancer && len(service.Status.LoadBalancer.Ingress) == 0
	if !waits || service.DeletionTimestamp != nil {
		return nil
	}
	taken, err := taken(ctx, client)
	if err != nil {
		return err
	}
	address, found := free(addresses, taken, service.Spec.LoadBalancerIP)
	if !found {
		return nil
	}
	service = service.DeepCopy()
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address.String()}}
	// A Service that has changed since is seen again.
	_, err = client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{})
	if errors.IsConflict(err) || errors.IsNotFound(err) {
		return nil
	}
	return err
}

// taken are the addresses that Services have.
func taken(ctx context.Context, client kubernetes.Interface) (map[netip.Addr]bool, error) {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	found := map[netip.Addr]bool{}
	for _, service := range list.Items {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil {
				found[address] = true
			}
		}
	}
	return found, nil
}

// free is the address that is asked for, or the first that nobody has.
func free(addresses netip.Prefix, taken map[netip.Addr]bool, asked string) (netip.Addr, bool) {
	if asked != "" {
		address, err := netip.ParseAddr(asked)
		return address, err == nil && addresses.Contains(address) && !taken[address]
	}
	for address := addresses.Addr().Next(); addresses.Contains(address); address = address.Next() {
		if !taken[address] {
			return address, true
		}
	}
	return netip.Addr{}, false
}
