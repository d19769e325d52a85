//! A table with one row per thing measured and one column per daemon.

use std::time::Duration;

/// What stands in a cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Times of many calls; p50 and p95 are shown, in milliseconds.
    Times(Vec<f64>),
    /// One number with its unit.
    Number(f64, &'static str),
}

/// Rows in the order in which they first came, cells by column.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Option<Cell>>)>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: &[&'static str]) -> Self {
        Self { title: title.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    fn cell(&mut self, row: &str, column: &str) -> Option<&mut Option<Cell>> {
        let at = self.columns.iter().position(|name| *name == column)?;
        if !self.rows.iter().any(|(name, _)| name == row) {
            self.rows.push((row.to_owned(), vec![None; self.columns.len()]));
        }
        let (_, cells) = self.rows.iter_mut().find(|(name, _)| name == row)?;
        cells.get_mut(at)
    }

    /// Adds one call's time.
    pub fn time(&mut self, row: &str, column: &str, took: Duration) {
        let Some(cell) = self.cell(row, column) else { return };
        let millis = took.as_secs_f64() * 1000.0;
        match cell {
            Some(Cell::Times(times)) => times.push(millis),
            _ => *cell = Some(Cell::Times(vec![millis])),
        }
    }

    /// Sets a number.
    pub fn number(&mut self, row: &str, column: &str, value: f64, unit: &'static str) {
        if let Some(cell) = self.cell(row, column) {
            *cell = Some(Cell::Number(value, unit));
        }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("\n{}", self.title);
        print!("{:<44}", "");
        self.columns.iter().for_each(|column| print!("{column:>24}"));
        println!();
        for (name, cells) in &self.rows {
            print!("{name:<44}");
            cells.iter().for_each(|cell| print!("{:>24}", cell.as_ref().map_or_else(|| "-".to_owned(), Cell::show)));
            println!();
        }
    }
}

impl Cell {
    fn show(&self) -> String {
        match self {
            Self::Times(times) => format!("{:.1} / {:.1} ms", percentile(times, 50), percentile(times, 95)),
            Self::Number(value, unit) if *value >= 100.0 => format!("{value:.0} {unit}"),
            Self::Number(value, unit) => format!("{value:.2} {unit}"),
        }
    }
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}
