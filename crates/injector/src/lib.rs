//! Gives pods their sidecars: `pod + settings -> patched pod`, and whether to.
//!
//! A pod is JSON here, not a typed struct: what the API server knows and this crate does not must come through
//! untouched. What a pod gets is built natively ([`InjectionSettings`] holds the values it depends on) and laid over it
//! as a strategic merge patch, as users' own overlays are; what users say in a container named `istio-proxy` of their
//! own wins over it.
//!
//! - [`decide`]: whether a pod gets a sidecar; [`selects`]: whether the API server would ask at all;
//! - [`inject`]: the patched pod; injecting it again changes nothing;
//! - [`patch`]: the difference as RFC 6902 JSON Patch;
//! - [`workload`]: the pods inside Deployments, Jobs and so on.
//!
//! Failure policy: a pod that cannot get what it asks for is refused with the annotation or template to blame; a broken
//! part of the settings is reported once and left out.
//!
//! # Users' overlays
//!
//! The ConfigMap `istio-sidecar-injector` may name further templates. Lateen takes them as strategic merge patches of
//! pods; Go's template language is not run. What templates are used for, and what replaces it:
//!
//! | in a Go template | in an overlay |
//! |---|---|
//! | `{{ range .Spec.Containers }}- name: {{ .Name }}` | a container named `"*"` stands for each of the application's |
//! | `{{ .ObjectMeta.Labels.x }}`, `{{ .ObjectMeta.Annotations.x }}`, name, namespace | an environment variable with `valueFrom.fieldRef`, or a `downwardAPI` volume |
//! | `{{ .Values.x }}`, `{{ .MeshConfig.x }}`, `{{ .Revision }}` | the value itself, written by Helm when the ConfigMap is made |
//! | `{{ .ProxyConfig.x }}` | annotation `proxy.istio.io/config`, or a ProxyConfig |
//! | `{{ if … }}` over pods | two overlays, named by the pods in `inject.istio.io/templates` |
//! | removing what the built-in template sets | `$patch: delete`, or `null` |
//! | a changed copy of the template `sidecar` | an overlay of the changed fields alone, in `defaultTemplates: [sidecar, mine]` |

mod annotations;
mod context;
mod decision;
mod image;
mod inject;
mod merge;
mod overrides;
mod owner;
mod pod;
mod probes;
mod prometheus;
mod proxy_config;
mod settings;
mod template;
mod values;
pub mod workload;

pub use self::decision::{Decision, Skip, decide, selects};
pub use self::inject::{InjectError, Injected, Request, inject, patch};
pub use self::merge::{strategic_merge, strategic_merge_of};
pub use self::owner::Owner;
pub use self::settings::{InjectionSettings, Overlay, Policy, SettingsError, WorkloadProxyConfig};
pub use self::values::Values;
