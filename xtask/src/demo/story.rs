//! The story: what a mesh is for, step by step. A step passes only when what it tells was seen.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::edit;
use super::http;
use super::plan::Part;
use super::stage::Stage;
use super::traffic::{Answer, now, share};

/// The service whose certificates live so short that a rotation happens while one looks.
const SHORT_LIVED: &str = "productpage";
/// The service that loses a replica.
const SHRINKING: &str = "ratings";

/// Tells the whole story.
///
/// # Errors
/// At the first step that was not observed.
pub(super) fn tell(stage: &mut Stage) -> Result<()> {
    stage.step("control plane", |stage| {
        stage.world.start_control_plane()?;
        stage.wait(Duration::from_secs(30), |stage| stage.world.control_plane_ready())?;
        Ok("lateend reads samples/bookinfo and is ready".to_owned())
    })?;
    stage.step("proxies", proxies)?;
    stage.step("traffic", traffic)?;
    let began = now();
    let failed_before = stage.traffic.totals().1;
    stage.step("mutual TLS", mutual_tls)?;
    stage.step("strangers", stranger)?;
    stage.step("the door", door)?;
    stage.screen.table_once(&stage.traffic);
    stage.step("reviews 90/10", |stage| shift(stage, 90, 10))?;
    stage.step("reviews 50/50", |stage| shift(stage, 50, 50))?;
    stage.screen.table_once(&stage.traffic);
    stage.step("a replica goes", replica_goes)?;
    stage.step("a certificate rotates", rotation)?;
    stage.step("looking back", |stage| look_back(stage, began, failed_before))?;
    stage.screen.table_once(&stage.traffic);
    Ok(())
}

fn proxies(stage: &mut Stage) -> Result<String> {
    stage.world.start_proxies(SHORT_LIVED)?;
    stage.wait(Duration::from_secs(60), |stage| stage.world.proxies_ready())?;
    let count = stage.world.workloads.len();
    let synced = stage.wait(Duration::from_secs(10), |stage| {
        let page = stage.world.ask_control_plane("/debug/syncz")?;
        let missing: Vec<&str> = stage
            .world
            .workloads
            .iter()
            .map(|running| running.workload.pod.as_str())
            .filter(|pod| !page.contains(pod))
            .collect();
        ensure!(missing.is_empty(), "/debug/syncz does not name {}", missing.join(", "));
        Ok(count)
    })?;
    stage.screen.title(format!(
        "Lateen demo · {count} Envoys, each with its agent {}",
        stage.world.apart()
    ));
    Ok(format!(
        "{count} agents have certificates, {synced} Envoys are connected and ready"
    ))
}

fn traffic(stage: &mut Stage) -> Result<String> {
    stage.world.start_services()?;
    stage.wait(Duration::from_secs(10), |stage| stage.world.services_ready())?;
    let lines = stage.world.start_driver(stage.rate)?;
    let traffic = stage.traffic.clone();
    std::thread::spawn(move || traffic.read(lines));
    let second = usize::try_from(stage.rate)?;
    stage.wait(Duration::from_secs(20), |stage| {
        let recent = stage.traffic.between(now().saturating_sub(1500), now());
        ensure!(
            recent.len() >= second,
            "{} answers in the last 1.5 s{}",
            recent.len(),
            last_error(stage)
        );
        ensure!(
            recent.iter().all(|answer| answer.ok),
            "not every request succeeds{}",
            last_error(stage)
        );
        Ok(())
    })?;
    Ok(format!(
        "{} requests/s from traffic to productpage and on, all answered",
        stage.rate
    ))
}

fn last_error(stage: &Stage) -> String {
    stage
        .traffic
        .last_error()
        .map(|error| format!("; the latest failure: {error}"))
        .unwrap_or_default()
}

/// Every HTTP call must carry both identities, and the right ones.
fn check_identities(answers: &[Answer]) -> Result<usize> {
    let identity = |service: &str| format!("spiffe://cluster.local/ns/shop/sa/{service}");
    let mut checked = 0;
    for call in answers
        .iter()
        .flat_map(|answer| &answer.calls)
        .filter(|call| call.ok && call.to != "stock")
    {
        let Some((client, server)) = &call.peer else {
            bail!("{} → {} carried no certificate", call.from, call.to)
        };
        ensure!(
            *client == identity(&call.from) && *server == identity(&call.to),
            "{} → {} was {client} → {server}",
            call.from,
            call.to
        );
        checked += 1;
    }
    Ok(checked)
}

fn mutual_tls(stage: &mut Stage) -> Result<String> {
    let began = now();
    stage.pause(Duration::from_secs(1))?;
    let checked = check_identities(&stage.traffic.between(began, now()))?;
    ensure!(checked > 0, "no call was seen");
    // The stock speaks TCP, so it cannot pass on what its proxy saw: its proxy counts.
    let handshakes = stage
        .world
        .find("stock")?
        .counters(|name| name.starts_with("listener.") && name.ends_with("ssl.handshake"))?;
    ensure!(handshakes > 0, "the Envoy of stock has shaken no hands over TLS");
    Ok(format!(
        "{checked} HTTP calls in a second, each with the right client and server identity; TCP: {handshakes} handshakes at stock"
    ))
}

/// Nobody without a certificate gets in.
fn stranger(stage: &mut Stage) -> Result<String> {
    let page = &stage.world.find("productpage")?.workload;
    let Part::Service { port, .. } = page.part else {
        bail!("productpage is no service")
    };
    match http::get((page.ip, port).into(), "productpage", "/productpage") {
        Ok(answer) => bail!("plain text from outside the mesh was answered with {}", answer.status),
        Err(_) => Ok(format!(
            "plain text to {}:{port} from outside the mesh is cut off",
            page.ip
        )),
    }
}

/// The gateway leads in from outside.
fn door(stage: &mut Stage) -> Result<String> {
    let gateway = stage.world.find("ingress")?;
    let (address, identity) = ((gateway.workload.ip, 8080).into(), gateway.workload.identity());
    let answer = stage.wait(Duration::from_secs(5), |_| {
        let answer = http::get(address, "shop.example", "/productpage")?;
        ensure!(
            answer.status == 200,
            "the gateway answers {}: {}",
            answer.status,
            answer.body
        );
        Ok(answer)
    })?;
    let hop: serde_json::Value = serde_json::from_str(&answer.body).context("the gateway's answer is no page")?;
    ensure!(
        hop["peer"]["client"] == identity,
        "the page was asked by {}, not by {identity}",
        hop["peer"]["client"]
    );
    let other = http::get(address, "other.example", "/productpage")?;
    ensure!(
        other.status == 404,
        "a host that the Gateway does not name gets {}",
        other.status
    );
    Ok("shop.example is led in by the ingress gateway with its own identity; other hosts get 404".to_owned())
}

/// Edits the weights and watches traffic follow.
fn shift(stage: &mut Stage, old: u32, new: u32) -> Result<String> {
    let edited = now();
    edit::weights(&stage.world.config("reviews-route.yaml"), &[("v1", old), ("v3", new)])?;
    let wanted = f64::from(new) / 100.0;
    // From one second after the edit on, shares must be right: long enough to be sure within four standard deviations.
    stage.pause(Duration::from_secs(6))?;
    let (first, last) = (edited + 1000, edited + 5800);
    let answers = stage.traffic.between(first, last);
    let (seen, calls) = share(&answers, "reviews", "v3");
    ensure!(calls > 50, "only {calls} calls to reviews were seen");
    #[expect(clippy::cast_precision_loss, reason = "thousands of calls")]
    let margin = 4.0 * (wanted * (1.0 - wanted) / calls as f64).sqrt();
    ensure!(
        (seen - wanted).abs() <= margin,
        "v3 got {:.1} % of {calls} calls, not {new} %",
        seen * 100.0
    );
    let follow = follow_time(
        &stage.traffic.between(edited.saturating_sub(2000), last),
        edited,
        wanted,
    );
    Ok(format!(
        "traffic followed the edited file within {follow} ms; v3 got {:.1} % of the {calls} calls from the first second on",
        seen * 100.0
    ))
}

/// Milliseconds from the edit to the first request asked after which the share of v3 fits the new weight better than
/// what was before: the point that splits the sequence of requests best.
fn follow_time(answers: &[Answer], edited: u64, wanted: f64) -> u64 {
    let before: Vec<Answer> = answers.iter().filter(|answer| answer.asked < edited).cloned().collect();
    let old = share(&before, "reviews", "v3").0;
    let (old, new) = (old.clamp(0.001, 0.999), wanted.clamp(0.001, 0.999));
    let mut likelihood = 0.0_f64;
    let mut best = (0.0_f64, edited);
    for answer in answers.iter().filter(|answer| answer.asked >= edited) {
        for call in answer
            .calls
            .iter()
            .filter(|call| call.to == "reviews" && !call.version.is_empty())
        {
            likelihood += if call.version == "v3" {
                (old / new).ln()
            } else {
                ((1.0 - old) / (1.0 - new)).ln()
            };
        }
        if likelihood > best.0 {
            best = (likelihood, answer.asked);
        }
    }
    best.1.saturating_sub(edited)
}

/// A replica is asked to go, as a kubelet and the endpoint controller would: nobody notices.
fn replica_goes(stage: &mut Stage) -> Result<String> {
    let (pod, address) = {
        let going = stage.world.find(SHRINKING)?;
        (going.workload.pod.clone(), going.workload.ip)
    };
    let began = now();
    let answered_by = |answers: &[Answer]| {
        answers
            .iter()
            .flat_map(|answer| &answer.calls)
            .filter(|call| call.pod == pod)
            .count()
    };
    ensure!(
        answered_by(&stage.traffic.between(began.saturating_sub(2000), began)) > 0,
        "{pod} got no traffic even before"
    );
    let failed = stage.traffic.totals().1;

    edit::terminating(&stage.world.config("ratings-endpoints.yaml"), &address.to_string())?;
    let mut agent = stage
        .world
        .find_mut(SHRINKING)?
        .agent
        .take()
        .context("it has no agent")?;
    agent.terminate()?;
    let status = stage.wait(Duration::from_secs(30), |_| {
        agent.ended().context("its agent still drains")
    })?;
    ensure!(
        status.success(),
        "its agent ended with {status}\n{}",
        agent.last_words()
    );
    let drained = now();
    // Only now does the service itself end.
    drop(stage.world.find_mut(SHRINKING)?.app.take());
    stage.pause(Duration::from_millis(1500))?;

    let newly_failed = stage.traffic.totals().1 - failed;
    ensure!(newly_failed == 0, "{newly_failed} requests failed{}", last_error(stage));
    let late = answered_by(&stage.traffic.between(began + 1000, now()));
    ensure!(
        late == 0,
        "{pod} still got {late} requests a second after its endpoint was marked as terminating"
    );
    let during = stage.traffic.between(began, now()).len();
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let seconds = (drained - began) as f64 / 1000.0;
    Ok(format!(
        "{pod} got SIGTERM and drained in {seconds:.1} s: 0 of {during} requests failed"
    ))
}

/// A certificate is replaced under traffic: connections stay.
fn rotation(stage: &mut Stage) -> Result<String> {
    let closed = |name: &str| {
        (name.starts_with("http.inbound") && name.ends_with(".downstream_cx_destroy"))
            || (name.starts_with("cluster.outbound") && name.ends_with(".upstream_cx_destroy"))
    };
    let open = |name: &str| name.starts_with("http.inbound") && name.ends_with(".downstream_cx_active");
    let page = stage.world.find(SHORT_LIVED)?;
    let (old, closed_before, open_before) = (page.serial()?, page.counters(closed)?, page.counters(open)?);
    ensure!(open_before > 0, "the Envoy of {SHORT_LIVED} counts no open connection");
    let failed = stage.traffic.totals().1;
    let began = now();
    let new = stage.wait(Duration::from_secs(70), |stage| {
        let serial = stage.world.find(SHORT_LIVED)?.serial()?;
        ensure!(
            serial != old,
            "the Envoy of {SHORT_LIVED} still uses the certificate {old}"
        );
        Ok(serial)
    })?;
    stage.pause(Duration::from_secs(2))?;
    let page = stage.world.find(SHORT_LIVED)?;
    let (dropped, now_open) = (page.counters(closed)? - closed_before, page.counters(open)?);
    ensure!(dropped == 0, "{dropped} connections were closed");
    let newly_failed = stage.traffic.totals().1 - failed;
    ensure!(newly_failed == 0, "{newly_failed} requests failed{}", last_error(stage));
    let during = stage.traffic.between(began, now()).len();
    Ok(format!(
        "{SHORT_LIVED}: serial {}… → {}…, {now_open} connections stayed open, none closed, 0 of {during} requests failed",
        &old[..old.len().min(8)],
        &new[..new.len().min(8)]
    ))
}

/// The whole run, once more: nothing failed, nothing went without identities.
fn look_back(stage: &mut Stage, began: u64, failed_before: u64) -> Result<String> {
    let answers = stage.traffic.between(began, now());
    let failed = stage.traffic.totals().1 - failed_before;
    ensure!(failed == 0, "{failed} requests failed{}", last_error(stage));
    let checked = check_identities(&answers)?;
    let (lateend, agent) = stage.world.memory();
    Ok(format!(
        "0 of {} requests failed, {checked} calls under mutual TLS; resident: lateend {} MiB, an agent {} MiB",
        answers.len(),
        lateend >> 20,
        agent >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Call;
    use super::*;

    fn answer(asked: u64, version: &str) -> Answer {
        let call = Call {
            from: "productpage".into(),
            to: "reviews".into(),
            version: version.into(),
            pod: String::new(),
            micros: 1,
            ok: true,
            peer: Some((
                "spiffe://cluster.local/ns/shop/sa/productpage".into(),
                "spiffe://cluster.local/ns/shop/sa/reviews".into(),
            )),
        };
        Answer {
            asked,
            micros: 1,
            ok: true,
            calls: vec![call],
            error: None,
        }
    }

    #[test]
    fn the_moment_of_change_is_found() {
        // Until 1300 one in ten goes to v3, from then on every other one.
        let answers: Vec<Answer> = (0..400)
            .map(|n| {
                let asked = n * 10;
                let hit = if asked < 1300 { n % 10 == 0 } else { n % 2 == 0 };
                answer(asked, if hit { "v3" } else { "v1" })
            })
            .collect();
        let found = follow_time(&answers, 1000, 0.5);
        assert!((280..=320).contains(&found), "{found}");
    }

    #[test]
    fn a_wrong_identity_is_an_error() {
        assert_eq!(check_identities(&[answer(0, "v1")]).unwrap(), 1);
        let mut wrong = answer(0, "v1");
        wrong.calls[0].from = "traffic".into();
        assert!(
            check_identities(&[wrong])
                .unwrap_err()
                .to_string()
                .contains("traffic → reviews was")
        );
        let mut plain = answer(0, "v1");
        plain.calls[0].peer = None;
        assert!(
            check_identities(&[plain])
                .unwrap_err()
                .to_string()
                .contains("no certificate")
        );
    }
}
