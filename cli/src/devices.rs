//! `cosmine devices`.

use cosmine::Device;
use serde::Serialize;

use crate::args::DevicesArgs;
use crate::failure::Failure;
use crate::report;

#[derive(Serialize)]
struct Report {
    devices: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    /// What `--device` takes.
    name: String,
    present: bool,
    /// What was found; or why nothing was, and what to install.
    description: String,
    /// `null` for an absent device.
    canonical: Option<bool>,
    /// `null` for an absent device, and for one that does not compute on the processor's threads.
    threads: Option<usize>,
    /// `null` where there is no limit, or no device.
    memory_bytes: Option<u64>,
}

/// Says which devices are there.
pub(crate) fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let devices: Vec<Entry> = Device::list()
        .into_iter()
        .map(|info| Entry {
            present: info.limits.is_some(),
            description: info.description,
            canonical: info.canonical,
            threads: info.limits.filter(|_| info.name == "cpu").map(|limits| threads(limits.threads)),
            memory_bytes: info.limits.map(|limits| limits.memory_bytes).filter(|bytes| *bytes != u64::MAX),
            name: info.name,
        })
        .collect();
    if args.json {
        return report::json(&Report { devices });
    }
    let rows = devices.into_iter().map(|device| {
        let canonical = device.canonical.map_or("-", |yes| if yes { "yes" } else { "no" });
        let memory = device.memory_bytes.map_or("no memory limit".to_owned(), |bytes| format!("{bytes} bytes"));
        let limits = match device.threads {
            _ if !device.present => "-".to_owned(),
            None => memory,
            Some(threads) => format!("{}, {memory}", report::counted(threads as u64, "thread")),
        };
        let found = if device.present { "found" } else { "absent" };
        vec![device.name, found.to_owned(), canonical.to_owned(), limits, device.description]
    });
    report::table(&["device", "", "canonical", "limits", ""], rows);
    Ok(())
}

/// The number of threads that a limit of `threads` means.
pub(crate) fn threads(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}
