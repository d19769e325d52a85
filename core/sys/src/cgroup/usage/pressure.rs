//! Pressure stall information: how long processes of a cgroup waited for something.

use std::path::Path;

use super::files::Files;

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last ten seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// In all, microseconds.
    pub total_micros: u64,
}

/// A pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalls {
    /// Some process waited.
    pub some: Stall,
    /// All processes that could have run waited at the same time.
    pub full: Stall,
}

/// What a cgroup's processes waited for; nothing where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// A processor.
    pub cpu: Option<Stalls>,
    /// Memory.
    pub memory: Option<Stalls>,
    /// Input and output.
    pub io: Option<Stalls>,
}

impl Pressure {
    pub(super) fn read(folder: &Path, files: &mut Files) -> Self {
        let mut stalls = |name| files.text(folder, name).and_then(Stalls::parse);
        Self { cpu: stalls("cpu.pressure"), memory: stalls("memory.pressure"), io: stalls("io.pressure") }
    }
}

impl Stalls {
    /// Reads a file's text; nothing where no line of it is a stall.
    fn parse(text: &str) -> Option<Self> {
        let (mut stalls, mut found) = (Self::default(), false);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let stall = match words.next() {
                Some("some") => &mut stalls.some,
                Some("full") => &mut stalls.full,
                _ => continue,
            };
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                match name {
                    "avg10" => stall.avg10 = percent(value),
                    "avg60" => stall.avg60 = percent(value),
                    "avg300" => stall.avg300 = percent(value),
                    "total" => stall.total_micros = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
            found = true;
        }
        found.then_some(stalls)
    }
}

fn percent(text: &str) -> f64 {
    text.parse().ok().filter(|value: &f64| value.is_finite()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pressure_file_is_read() {
        let text = "some avg10=98.89 avg60=87.78 avg300=77.01 total=4960715807\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let stalls = Stalls::parse(text).unwrap();
        assert_eq!(stalls.some, Stall { avg10: 98.89, avg60: 87.78, avg300: 77.01, total_micros: 4_960_715_807 });
        assert_eq!((stalls.full.avg10, stalls.full.total_micros), (0.5, 7));
    }

    #[test]
    fn odd_pressure_is_no_pressure() {
        for odd in ["", "\n", "none", "many avg10=1"] {
            assert_eq!(Stalls::parse(odd), None, "{odd:?}");
        }
        let odd = Stalls::parse("some avg10=NaN avg60=inf avg300=-x total=-1 more=2 =\nfull").unwrap();
        assert_eq!(odd, Stalls::default());
    }
}
