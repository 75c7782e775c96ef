//! A pod's network namespace, by way of its processes.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Opens the network namespace of the pod with this UID. Its sandbox's process is there as long as the pod is.
///
/// # Errors
/// When no process is the pod's.
pub(super) fn of_pod(host_proc: &Path, uid: &str) -> anyhow::Result<File> {
    if uid.is_empty() {
        bail!("the pod has no UID");
    }
    // systemd's names of control groups have no hyphens.
    let names = [uid.to_owned(), uid.replace('-', "_")];
    let processes = std::fs::read_dir(host_proc).with_context(|| host_proc.display().to_string())?;
    for process in processes.flatten() {
        let path = process.path();
        let is_number = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        let groups = if is_number {
            std::fs::read_to_string(path.join("cgroup")).unwrap_or_default()
        } else {
            continue;
        };
        if names.iter().any(|name| groups.contains(name.as_str())) {
            // One that ends meanwhile is not the only one.
            if let Ok(file) = File::open(path.join("ns/net")) {
                return Ok(file);
            }
        }
    }
    bail!("no process on this node belongs to the pod")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_either_form_of_the_uid() {
        let uid = "2f7c0f4e-1111-2222-3333-444455556666";
        for group in [
            format!("0::/kubepods/besteffort/pod{uid}/abc\n"),
            format!(
                "0::/../kubepods-pod{}.slice/cri-containerd-abc.scope\n",
                uid.replace('-', "_")
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for (process, group) in [("1", "0::/init.scope\n"), ("77", &group)] {
                std::fs::create_dir_all(folder.path().join(process).join("ns")).unwrap();
                std::fs::write(folder.path().join(process).join("cgroup"), group).unwrap();
                std::fs::write(folder.path().join(process).join("ns/net"), process).unwrap();
            }
            let mut file = of_pod(folder.path(), uid).unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut file, &mut text).unwrap();
            assert_eq!(text, "77");
            assert!(of_pod(folder.path(), "other").is_err());
            assert!(of_pod(folder.path(), "").is_err());
        }
    }
}
