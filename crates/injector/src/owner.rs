//! Who made a pod: the workload that its telemetry is told under.

use serde_json::Value;

use crate::pod;

/// The workload that a pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its API version, such as `apps/v1`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name; empty where it is not known yet.
    pub name: String,
    /// Its namespace; empty where it is not known yet.
    pub namespace: String,
}

impl Owner {
    /// The owner as far as the pod tells. A ReplicaSet, a replication controller and a Job stand for what made them,
    /// which their names and labels show.
    pub fn of_pod(pod: &Value) -> Self {
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        let itself = Self {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: text("name"),
            namespace: text("namespace"),
        };
        // A pod with a name of its own was made by nobody.
        if text("generateName").is_empty() {
            return itself;
        }
        let owners = pod["metadata"]["ownerReferences"].as_array();
        let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
        match controller {
            Some(controller) => Self::of_controller(pod, controller, itself.namespace),
            None => itself,
        }
    }

    fn of_controller(pod: &Value, controller: &Value, namespace: String) -> Self {
        let text = |key: &str| controller[key].as_str().unwrap_or_default().to_owned();
        let (api_version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        let made = |api_version: &str, kind: &str, name: &str| Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: namespace.clone(),
        };
        let without_hash = |label: &str| {
            let hash = pod::label(pod, label).filter(|hash| !hash.is_empty())?;
            name.strip_suffix(hash)?.strip_suffix('-')
        };
        match kind.as_str() {
            "ReplicaSet" => {
                if let Some(name) = without_hash("pod-template-hash") {
                    return made(&api_version, "Deployment", name);
                }
                if let Some(name) = without_hash("rollouts-pod-template-hash") {
                    return made("v1alpha1", "Rollout", name);
                }
            }
            "ReplicationController" => {
                if let Some(name) = pod::label(pod, "deploymentconfig").filter(|name| !name.is_empty()) {
                    return made(&api_version, "DeploymentConfig", name);
                }
            }
            "Job" => {
                // A CronJob's Jobs end in the minute, or second, that they were due.
                if let Some((cron_job, time)) = name.rsplit_once('-')
                    && !cron_job.is_empty()
                    && (8..=10).contains(&time.len())
                    && time.bytes().all(|byte| byte.is_ascii_digit())
                {
                    return made("batch/v1", "CronJob", cron_job);
                }
            }
            _ => {}
        }
        made(&api_version, &kind, &name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(kind: &str, name: &str, labels: Value) -> String {
        let pod = json!({"metadata": {
            "generateName": "x-", "namespace": "ns", "labels": labels,
            "ownerReferences": [{"apiVersion": "g/v1", "kind": kind, "name": name, "controller": true}],
        }});
        let owner = Owner::of_pod(&pod);
        format!("{} {} {}", owner.api_version, owner.kind, owner.name)
    }

    #[test]
    fn the_maker_of_the_maker_is_guessed() {
        let hash = json!({"pod-template-hash": "5d8"});
        assert_eq!(owner("ReplicaSet", "web-5d8", hash), "g/v1 Deployment web");
        assert_eq!(owner("ReplicaSet", "web-5d8", json!({})), "g/v1 ReplicaSet web-5d8");
        let hash = json!({"rollouts-pod-template-hash": "5d8"});
        assert_eq!(owner("ReplicaSet", "web-5d8", hash), "v1alpha1 Rollout web");
        assert_eq!(owner("Job", "backup-29312345", json!({})), "batch/v1 CronJob backup");
        assert_eq!(owner("Job", "backup-1", json!({})), "g/v1 Job backup-1");
        let config = json!({"deploymentconfig": "app"});
        assert_eq!(
            owner("ReplicationController", "app-3", config),
            "g/v1 DeploymentConfig app"
        );
        assert_eq!(Owner::of_pod(&json!({"metadata": {"name": "p"}})).kind, "Pod");
    }
}
