//! What `/proc` says of this process, read when it is asked for. Where `/proc` is missing nothing is said.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, Gauge};

pub(super) struct Process {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    start: Gauge,
}

/// A reading of `/proc/self`.
struct Reading {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_files: f64,
    start_seconds: f64,
}

impl Process {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_files: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since the epoch in seconds.",
            )?,
        })
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        [&self.resident, &self.virtual_memory, &self.open_files, &self.start]
            .into_iter()
            .flat_map(Collector::desc)
            .chain(self.cpu.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(reading) = read() else { return Vec::new() };
        self.resident.set(reading.resident_bytes);
        self.virtual_memory.set(reading.virtual_bytes);
        self.open_files.set(reading.open_files);
        self.start.set(reading.start_seconds);
        // Two scrapes at once may both add; the later one puts it right.
        self.cpu.inc_by((reading.cpu_seconds - self.cpu.get()).max(0.0));
        [&self.resident, &self.virtual_memory, &self.open_files, &self.start]
            .into_iter()
            .flat_map(Collector::collect)
            .chain(self.cpu.collect())
            .collect()
    }
}

/// Fields as proc(5) numbers them: 14 utime, 15 stime, 22 starttime, 23 vsize, 24 rss.
#[expect(clippy::cast_precision_loss, reason = "no machine has 2^52 bytes of memory")]
fn read() -> Option<Reading> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, field 2, is in parentheses and may hold blanks.
    let fields: Vec<f64> = stat
        .rsplit_once(") ")?
        .1
        .split(' ')
        .skip(1)
        .map_while(|field| field.trim().parse().ok())
        .collect();
    let field = |number: usize| fields.get(number - 4).copied();
    let boot: f64 = fs::read_to_string("/proc/stat")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|seconds| seconds.trim().parse().ok())?;
    Some(Reading {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        start_seconds: boot + field(22)? / ticks,
    })
}
