//! The tools that are built with Go, each pinned by a module below `tests/cluster/build`, whose `go.sum` has the hashes
//! of all that goes into it.

use std::path::Path;

use super::{Wanted, printed};

/// The version of Kubernetes.
macro_rules! kubernetes {
    () => {
        "1.34.4"
    };
}
/// The version of helm.
macro_rules! helm {
    () => {
        "3.21.4"
    };
}
/// A program and how to tell its version.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// What it prints of its version.
    says: &'static str,
    /// How it is asked.
    asked: &'static [&'static str],
    /// The folder below `tests/cluster/build`.
    pub(super) module: &'static str,
    /// What is built in it.
    pub(super) package: &'static str,
}

/// As `go build -ldflags` takes it, by module.
pub(super) fn link_flags(module: &str) -> String {
    match module {
        "kubernetes" => [
            ("gitVersion", concat!("v", kubernetes!())),
            ("gitMajor", "1"),
            ("gitMinor", "34"),
            ("gitTreeState", "clean"),
        ]
        .iter()
        .fold("-s -w".to_owned(), |flags, (name, value)| {
            format!("{flags} -X k8s.io/component-base/version.{name}={value}")
        }),
        "helm" => concat!("-s -w -X helm.sh/helm/v3/internal/version.version=v", helm!()).to_owned(),
        _ => "-s -w".to_owned(),
    }
}

macro_rules! of_kubernetes {
    ($name:literal) => {
        Tool {
            name: $name,
            version: kubernetes!(),
            says: concat!("Kubernetes v", kubernetes!()),
            asked: &["--version"],
            module: "kubernetes",
            package: concat!("k8s.io/kubernetes/cmd/", $name),
        }
    };
}

const ALL: &[Tool] = &[
    Tool {
        name: "etcd",
        version: "3.6.5",
        says: "etcd Version: 3.6.5",
        asked: &["--version"],
        module: "etcd",
        package: "go.etcd.io/etcd/server/v3",
    },
    of_kubernetes!("kube-apiserver"),
    of_kubernetes!("kube-controller-manager"),
    of_kubernetes!("kube-scheduler"),
    of_kubernetes!("kubelet"),
    of_kubernetes!("kube-proxy"),
    Tool {
        says: concat!("Client Version: v", kubernetes!()),
        asked: &["version", "--client"],
        ..of_kubernetes!("kubectl")
    },
    Tool {
        name: "coredns",
        version: "1.13.2",
        says: "CoreDNS-1.13.2",
        asked: &["-version"],
        module: "coredns",
        package: ".",
    },
    Tool {
        name: "helm",
        version: helm!(),
        says: concat!("v", helm!()),
        asked: &["version", "--short"],
        module: "helm",
        package: "helm.sh/helm/v3/cmd/helm",
    },
];

/// The tools that are meant.
pub(super) fn of(wanted: Wanted) -> Vec<&'static Tool> {
    let names: &[&str] = match wanted {
        Wanted::Envoy => &[],
        Wanted::Apiserver => &["etcd", "kube-apiserver"],
        Wanted::Cluster => return ALL.iter().collect(),
        Wanted::Etcd => &["etcd"],
        Wanted::KubeApiserver => &["kube-apiserver"],
        Wanted::KubeControllerManager => &["kube-controller-manager"],
        Wanted::KubeScheduler => &["kube-scheduler"],
        Wanted::Kubelet => &["kubelet"],
        Wanted::KubeProxy => &["kube-proxy"],
        Wanted::Kubectl => &["kubectl"],
        Wanted::Coredns => &["coredns"],
        Wanted::Helm => &["helm"],
    };
    ALL.iter().filter(|tool| names.contains(&tool.name)).collect()
}

impl Tool {
    /// The environment variable that names the user's own.
    pub(super) fn variable(&self) -> String {
        self.name.to_uppercase().replace('-', "_")
    }

    /// Whether a file is this tool, in the pinned version.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        path.is_file() && printed(path, self.asked).is_ok_and(|text| self.says_so(&text))
    }

    fn says_so(&self, text: &str) -> bool {
        text.split_once(self.says)
            .is_some_and(|(_, rest)| !rest.starts_with(|next: char| next.is_ascii_digit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_known_by_the_version_that_it_prints() {
        let tool = of(Wanted::Kubectl)[0];
        assert!(tool.says_so("Client Version: v1.34.4\nKustomize Version: v5.7.1\n"));
        assert!(!tool.says_so("Client Version: v1.32.4-dispatcher\n"));
        assert!(!tool.says_so("Client Version: v1.34.40\n"));
        assert!(of(Wanted::Etcd)[0].says_so("etcd Version: 3.6.5\nGit SHA: x\n"));
    }

    #[test]
    fn the_pins_agree_with_the_modules() {
        let root = crate::workspace::root().join("tests/cluster/build");
        for tool in ALL {
            let folder = root.join(tool.module);
            let text = std::fs::read_to_string(folder.join("go.mod")).unwrap();
            assert!(
                text.contains(&format!(" v{}", tool.version)),
                "{} {} is not in {}",
                tool.name,
                tool.version,
                folder.display()
            );
            assert!(folder.join("go.sum").is_file());
        }
    }

    #[test]
    fn the_api_server_alone_takes_two_tools() {
        let names = |wanted| of(wanted).iter().map(|tool| tool.name).collect::<Vec<_>>();
        assert_eq!(names(Wanted::Apiserver), ["etcd", "kube-apiserver"]);
        assert_eq!(names(Wanted::Cluster).len(), ALL.len());
        assert_eq!(of(Wanted::KubeProxy)[0].variable(), "KUBE_PROXY");
    }
}
