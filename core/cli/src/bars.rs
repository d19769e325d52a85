//! Progress bars on standard error, one for each thing that is on its way.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(150);

/// A head that says what is done, and the bars below it.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    known: HashMap<String, ProgressBar>,
    head: ProgressBar,
}

impl Bars {
    /// No bars yet, below a line that says what is done.
    pub fn new(doing: &str) -> Self {
        Self::draw(doing, MultiProgress::new())
    }

    fn draw(doing: &str, all: MultiProgress) -> Self {
        let head = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}")));
        head.set_message(plain(doing));
        head.enable_steady_tick(TICK);
        Self { all, known: HashMap::new(), head }
    }

    /// Says what is done now.
    pub fn say(&self, doing: &str) {
        self.head.set_message(plain(doing));
    }

    /// Moves the bar of `key`, which is shown as `label`; `total` is 0 where nobody knows it.
    pub fn show(&mut self, key: &str, label: &str, done: u64, total: u64, state: &str) {
        let bar = self.known.entry(key.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            bar.set_prefix(plain(label));
            bar
        });
        if total > 0 && bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(style("  {prefix:13} [{bar:30}] {bytes:>10}/{total_bytes:10} {bytes_per_sec:12} {msg}"));
        } else if total == 0 && done > 0 {
            bar.set_style(style("  {prefix:13} {bytes:>10} {bytes_per_sec:12} {msg}"));
        } else if total == 0 {
            bar.set_style(style("  {prefix:13} {msg}"));
        }
        bar.set_message(plain(state));
        bar.set_position(done);
    }

    /// Fills the bar of `key`, which is done.
    pub fn finish(&mut self, key: &str) {
        if let Some(bar) = self.known.get(key).filter(|bar| !bar.is_finished()) {
            bar.set_position(bar.length().unwrap_or_else(|| bar.position()));
            bar.finish();
        }
    }

    /// Fills all bars but those that `is_open` names.
    pub fn finish_others(&mut self, is_open: impl Fn(&str) -> bool) {
        let over: Vec<String> = self.known.keys().filter(|key| !is_open(key)).cloned().collect();
        over.iter().for_each(|key| self.finish(key));
    }

    /// Takes everything off the screen.
    pub fn clear(&self) {
        self.head.finish_and_clear();
        // Fails only where the terminal is gone.
        let _ = self.all.clear();
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What the daemon tells could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_move_to_their_end() {
        let all = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden());
        let mut bars = Bars::draw("image", all);
        bars.show("layer", "la\x1byer", 5, 0, "");
        bars.show("layer", "layer", 50, 100, "downloading");
        let bar = bars.known["layer"].clone();
        assert_eq!((bar.position(), bar.length(), bar.is_finished()), (50, Some(100), false));
        assert_eq!(bar.prefix(), "layer");
        bars.finish_others(|key| key == "layer");
        assert!(!bar.is_finished());
        bars.finish_others(|_| false);
        assert_eq!((bar.position(), bar.is_finished()), (100, true));
    }
}
