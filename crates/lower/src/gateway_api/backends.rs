//! Where routes send to.

use lateen_api::gateway_api::BackendObjectReference;
use lateen_model::route::{Destination, Headers, Mirror, Percent, WeightedDestination};
use lateen_names::{Hostname, Namespace};

use super::Conversion;
use super::grants::core;
use super::status::Fault;
use crate::context::Meta;
use crate::object::Kind;

/// Istio's reason for a back end that is not valid in itself.
const INVALID: &str = "InvalidDestination";

/// A reference to a back end cannot be followed.
pub(super) enum Broken {
    /// Its share is answered with an error, and everything else goes on.
    Share,
    /// The route is not valid as a whole.
    Route,
}

/// The route that refers.
#[derive(Clone, Copy)]
pub(super) struct Referrer<'m> {
    pub(super) meta: &'m Meta,
    pub(super) kind: Kind,
    /// Whether it is attached to a gateway: only there references to other namespaces need leave.
    pub(super) at_gateway: bool,
}

/// A back end with its share.
pub(super) struct Backend<'b> {
    pub(super) group: &'b str,
    pub(super) kind: &'b str,
    pub(super) name: &'b str,
    pub(super) namespace: Option<&'b str>,
    pub(super) port: Option<i32>,
    pub(super) weight: i32,
}

impl<'b> From<&'b BackendObjectReference> for Backend<'b> {
    fn from(from: &'b BackendObjectReference) -> Self {
        let BackendObjectReference {
            group,
            kind,
            name,
            namespace,
            port,
        } = from;
        Self {
            group,
            kind,
            name,
            namespace: namespace.as_deref(),
            port: *port,
            weight: 1,
        }
    }
}

macro_rules! backend {
    ($type:ty) => {
        impl<'b> From<&'b $type> for Backend<'b> {
            fn from(from: &'b $type) -> Self {
                Self {
                    group: &from.group,
                    kind: &from.kind,
                    name: &from.name,
                    namespace: from.namespace.as_deref(),
                    port: from.port,
                    weight: from.weight,
                }
            }
        }
    };
}

backend!(lateen_api::gateway_api::BackendRef);
backend!(lateen_api::gateway_api::HttpBackendRef);
backend!(lateen_api::gateway_api::GrpcBackendRef);

impl Conversion<'_> {
    /// Destinations with their shares; those without share are left out.
    pub(super) fn destinations<'b, B>(
        &mut self,
        from: Referrer<'_>,
        backends: &'b [B],
        field: &str,
    ) -> Result<Vec<(usize, WeightedDestination)>, ()>
    where
        &'b B: Into<Backend<'b>>,
    {
        let mut destinations = Vec::with_capacity(backends.len());
        for (at, backend) in backends.iter().enumerate() {
            let backend: Backend<'b> = backend.into();
            let Some(weight) = u32::try_from(backend.weight).ok().filter(|weight| *weight > 0) else {
                continue;
            };
            let destination = match self.destination(from, &backend, &format!("{field}.backendRefs[{at}]")) {
                Ok(destination) => Some(destination),
                Err(Broken::Share) => None,
                Err(Broken::Route) => return Err(()),
            };
            let headers = Headers::default();
            destinations.push((
                at,
                WeightedDestination {
                    destination,
                    weight,
                    headers,
                    authority: None,
                },
            ));
        }
        Ok(destinations)
    }

    /// Whether nothing would be sent anywhere.
    pub(super) fn no_share<'b, B>(backends: &'b [B]) -> bool
    where
        &'b B: Into<Backend<'b>>,
    {
        backends
            .iter()
            .all(|backend| Into::<Backend<'b>>::into(backend).weight <= 0)
    }

    /// A mirror; `None` where it leads nowhere.
    pub(super) fn mirror(
        &mut self,
        from: Referrer<'_>,
        mirror: &lateen_api::gateway_api::RequestMirror,
        field: &str,
    ) -> Option<Mirror> {
        let backend = Backend::from(&mirror.backend_ref);
        let field = format!("{field}.requestMirror.backendRef");
        let destination = self.destination(from, &backend, &field).ok()?;
        // A service that does not exist gets no copies.
        if !self.exists(&destination.host, from.meta) {
            return None;
        }
        let percent = match (&mirror.fraction, mirror.percent) {
            (Some(fraction), _) => {
                let below = f64::from(fraction.denominator.max(1));
                Percent(crate::istio::report::parts_per_million(
                    100.0 * f64::from(fraction.numerator) / below,
                ))
            }
            (None, Some(percent)) => Percent(crate::istio::report::parts_per_million(f64::from(percent))),
            (None, None) => Percent::ALL,
        };
        (percent.0 > 0).then_some(Mirror { destination, percent })
    }

    fn destination(&mut self, from: Referrer<'_>, backend: &Backend<'_>, field: &str) -> Result<Destination, Broken> {
        let own = &from.meta.namespace;
        let namespace = backend.namespace.unwrap_or(own.as_str());
        let group = core(backend.group);
        if from.at_gateway && namespace != own.as_str() {
            let referrer = (from.kind.name(), own.as_str());
            if !self
                .grants
                .allow(referrer, (group, backend.kind, namespace), backend.name)
            {
                let message = format!(
                    "{} {namespace}/{} needs a ReferenceGrant there; its share is answered with 500",
                    backend.kind, backend.name
                );
                self.unresolved(from, field, "RefNotPermitted", message);
                return Err(Broken::Share);
            }
        }
        let host = match (group, backend.kind) {
            ("", "Service") if backend.name.contains('.') => {
                let message = "give the Service's name, not its host name";
                self.unresolved(from, &format!("{field}.name"), INVALID, message);
                return Err(Broken::Route);
            }
            ("", "Service") => format!("{}.{namespace}.svc.{}", backend.name, self.ctx.domain()),
            ("networking.istio.io", "Hostname") if backend.namespace.is_some() => {
                let message = "a Hostname has no namespace; remove the field";
                self.unresolved(from, &format!("{field}.namespace"), INVALID, message);
                return Err(Broken::Route);
            }
            ("networking.istio.io", "Hostname") => backend.name.to_owned(),
            ("multicluster.x-k8s.io", "ServiceImport") if self.ctx.mesh.feature("ENABLE_MCS_HOST", false) => {
                format!("{}.{namespace}.svc.clusterset.local", backend.name)
            }
            // Services are those of all clusters anyway.
            ("multicluster.x-k8s.io", "ServiceImport") => {
                format!("{}.{namespace}.svc.{}", backend.name, self.ctx.domain())
            }
            _ => {
                let message = format!(
                    "{}/{} cannot be a back end; refer to a Service",
                    backend.group, backend.kind
                );
                self.unresolved(from, field, "InvalidKind", message);
                return Err(Broken::Share);
            }
        };
        let Some(port) = backend
            .port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
        else {
            self.unresolved(from, &format!("{field}.port"), INVALID, "the port is missing");
            return Err(Broken::Route);
        };
        let Ok(host) = Hostname::lower(&host) else {
            let message = format!("`{host}` is no host name");
            self.unresolved(from, &format!("{field}.name"), INVALID, message);
            return Err(Broken::Share);
        };
        if !self.exists(&host, from.meta) {
            let message = format!(
                "there is no {} {namespace}/{}; its share is answered with 500",
                backend.kind, backend.name
            );
            self.report(from.meta).missing(field, &message);
            self.unresolved = Some(Fault::new("BackendNotFound", message));
        }
        Ok(Destination {
            host,
            subset: None,
            port: Some(port),
        })
    }

    /// A reference, or what is to be done on the way, is not valid.
    pub(super) fn unresolved(
        &mut self,
        from: Referrer<'_>,
        field: &str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        self.report(from.meta).error(field, &message);
        self.unresolved = Some(Fault::new(reason, message));
    }

    /// Whether some service has the host, and may be seen from the route's namespace.
    fn exists(&self, host: &Hostname, meta: &Meta) -> bool {
        self.services_named(host)
            .any(|service| service.namespace == meta.namespace || service.export_to.visible_in(&meta.namespace))
    }

    /// Whether that namespace has a service of that host.
    pub(super) fn has_service(&self, host: &Hostname, namespace: &Namespace) -> bool {
        self.services_named(host).any(|service| service.namespace == *namespace)
    }
}
