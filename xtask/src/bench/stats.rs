//! Medians and quartiles.

use serde_json::{Value, json};

/// A median with the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Spread {
    /// Of values in any order; those that are not numbers are left out.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
            let place = share * last as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Spread { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }

    /// The quartiles, for a line of results.
    pub(crate) fn quartiles(&self) -> Value {
        json!([self.lower, self.upper])
    }
}

/// `1.023 [1.019 – 1.030]`
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3} – {:.3}]", self.median, self.lower, self.upper)
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn quartiles_interpolate() {
        let spread = Spread::of([4.0, 1.0, f64::NAN, 3.0, 2.0]);
        assert_eq!(spread, Spread { lower: 1.75, median: 2.5, upper: 3.25 });
        assert_eq!(Spread::of([7.0]).median, 7.0);
        assert!(Spread::of([]).median.is_nan());
    }
}
