//! The inner half of the demo: the world, the traffic and the screen together, and the waiting that keeps them alive.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::WorldArgs;
use super::process;
use super::screen::Screen;
use super::story;
use super::traffic::Traffic;
use super::world::World;

/// What every step of the story works with.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) traffic: Traffic,
    pub(super) screen: Screen,
    pub(super) rate: u32,
    stop: Arc<AtomicBool>,
    tick: Receiver<()>,
    _open: mpsc::Sender<()>,
}

/// Runs the world until the story is told or the outer process closes standard input.
///
/// # Errors
/// When a step of the story was not observed.
pub(crate) fn run_world(args: WorldArgs) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    process::adopt_orphans()?;
    let closed = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        closed.store(true, Ordering::Relaxed);
    });
    let (open, tick) = mpsc::channel();
    let mut stage = Stage {
        world: World::empty(args.dir.clone(), args.ground),
        traffic: Traffic::default(),
        screen: Screen::new("Lateen demo".to_owned(), true),
        rate: args.rate,
        stop,
        tick,
        _open: open,
    };
    let told = story::tell(&mut stage);
    if told.is_err() && !stage.stopped() {
        stage.world.keep_logs();
    }
    if !args.once && told.is_ok() {
        stay(&mut stage, &args)?;
    }
    told
}

/// Shows traffic until told to end.
fn stay(stage: &mut Stage, args: &WorldArgs) -> Result<()> {
    let mut lines = Vec::new();
    if args.keep {
        lines = urls(stage, &args.forwards)?;
    }
    lines.push("Ctrl-C ends it.".to_owned());
    stage.screen.leave(&lines);
    loop {
        match stage.pause(Duration::from_millis(200)) {
            Err(_) if stage.stopped() => return Ok(()),
            other => other?,
        }
    }
}

/// Opens the inner ends of the forwarded ports and says where they lead.
fn urls(stage: &mut Stage, forwards: &[String]) -> Result<Vec<String>> {
    let mut lines = vec![String::new()];
    let route: PathBuf = stage.world.config("reviews-route.yaml");
    for forward in forwards {
        let Some((name, port)) = forward.split_once('=') else {
            bail!("--forward {forward:?} is not NAME=PORT")
        };
        if !stage.world.forward(name)? {
            continue;
        }
        let base = format!("http://127.0.0.1:{port}");
        match name {
            "lateend" => lines.push(format!(
                "lateend    {base}/debug/syncz  {base}/debug/registryz  {base}/debug/configz"
            )),
            "metrics" => lines.push(format!("metrics    {base}/metrics")),
            "gateway" => lines.push(format!("try        curl -s -H 'host: shop.example' {base}/productpage")),
            pod => lines.push(format!("Envoy      {base}/  {pod}")),
        }
    }
    lines.push(format!("edit       {}", route.display()));
    Ok(lines)
}

impl Stage {
    /// Whether the user has asked to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Lets time pass, with the screen alive.
    ///
    /// # Errors
    /// When a process has ended that should run, or the user asks to end.
    pub(super) fn pause(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            if self.stopped() {
                bail!("interrupted");
            }
            self.world.all_alive()?;
            self.screen.refresh(&self.traffic);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let _ = self.tick.recv_timeout(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits until `seen` gives something, at most `patience`.
    ///
    /// # Errors
    /// When time is up, with what `seen` last said was missing, and as `pause`.
    pub(super) fn wait<T>(&mut self, patience: Duration, mut seen: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let until = Instant::now() + patience;
        loop {
            match seen(self) {
                Ok(found) => return Ok(found),
                Err(missing) if Instant::now() >= until => {
                    return Err(missing.context(format!("not seen within {:.0} s", patience.as_secs_f64())));
                }
                Err(_) => self.pause(Duration::from_millis(50))?,
            }
        }
    }

    /// Runs one step of the story and shows how it ended; its result is what to say of it.
    ///
    /// # Errors
    /// Passes on the step's.
    pub(super) fn step(&mut self, name: &str, act: impl FnOnce(&mut Self) -> Result<String>) -> Result<()> {
        self.screen.begin(name);
        let result = act(self);
        match &result {
            Ok(note) => self.screen.end(true, note, &self.traffic),
            Err(error) => self.screen.end(false, &format!("{error:#}"), &self.traffic),
        }
        result.map(drop)
    }
}
