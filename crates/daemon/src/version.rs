//! The version that tools read: `istioctl version` and Kiali ask `/version`, dashboards `pilot_info` and `istio_build`.

use serde_json::{Value, json};

/// The release of Istio whose configuration and protocols this control plane speaks. Tools compare it with what they
/// support.
const ISTIO: &str = "1.32.0";

/// Lateen's own version.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// In the form `<version>-<source revision>-<state of the build>`, which tools take apart at the dashes.
pub(crate) fn line() -> String {
    format!("{ISTIO}-lateen.{OWN}-Clean")
}

/// The value of `istio_build`'s label `tag`.
pub(crate) fn tag() -> String {
    format!("{ISTIO}-lateen.{OWN}")
}

/// What `control_plane.identifier` says in discovery responses: JSON, which `istioctl` reads.
pub(crate) fn control_plane(id: &str) -> Value {
    json!({
        "Component": "istiod",
        "ID": id,
        "Info": {
            "version": ISTIO,
            "revision": format!("lateen.{OWN}"),
            "golang_version": "",
            "status": "Clean",
            "tag": tag(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_taken_apart_at_two_dashes() {
        let text = line();
        let parts: Vec<&str> = text.rsplitn(3, '-').collect();
        assert_eq!(parts, ["Clean", &format!("lateen.{OWN}"), ISTIO]);
    }
}
