// SPDX-License-Identifier: Apache-2.0
//! Cases, and which of them are to be run.

use crate::bed::Bed;
use crate::series::Series;

/// On which containerds a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On all: what depends on containerd.
    Every,
    /// On one: what is ours alone.
    One(Series),
}

/// A test.
#[derive(Clone, Copy)]
pub struct Case {
    /// Input and outcome.
    pub name: &'static str,
    /// Where it runs.
    pub on: On,
    /// Whether it means nothing with another runtime than ours.
    pub ours_only: bool,
    /// Whether it uses the bed's resident, which then is no leftover.
    pub needs_resident: bool,
    /// An image that it uses beside busybox; its layers are no leftover.
    pub image: Option<&'static str>,
    /// The test itself; a panic is its failure.
    pub run: fn(&mut Bed),
}

/// A case for every containerd and every runtime.
pub const fn case(name: &'static str, run: fn(&mut Bed)) -> Case {
    Case {
        name,
        on: On::Every,
        ours_only: false,
        needs_resident: false,
        image: None,
        run,
    }
}

impl Case {
    /// On one containerd only.
    #[must_use]
    pub const fn on(mut self, series: Series) -> Self {
        self.on = On::One(series);
        self
    }

    /// With our runtime only.
    #[must_use]
    pub const fn ours(mut self) -> Self {
        self.ours_only = true;
        self
    }

    /// With another image.
    #[must_use]
    pub const fn image(mut self, name: &'static str) -> Self {
        self.image = Some(name);
        self
    }

    /// With the bed's resident.
    #[must_use]
    pub const fn resident(mut self) -> Self {
        self.needs_resident = true;
        self
    }
}

/// A case on one containerd, under its full name.
pub struct Planned {
    /// Which containerd.
    pub series: Series,
    /// `SERIES GROUP::CASE`.
    pub name: String,
    /// What to run.
    pub case: Case,
}

/// The cases on each of `series` whose name has one of the words, if there are any; oldest containerd first.
pub fn plan(groups: &[(&str, &[Case])], series: &[Series], words: &[String]) -> Vec<Planned> {
    let mut planned = Vec::new();
    for &series in series {
        for (group, cases) in groups {
            let here = cases
                .iter()
                .filter(|case| case.on == On::Every || case.on == On::One(series));
            planned.extend(here.map(|case| Planned {
                series,
                name: format!("{series} {group}::{}", case.name),
                case: *case,
            }));
        }
    }
    planned
        .retain(|planned| words.is_empty() || words.iter().any(|word| planned.name.contains(word)));
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &mut Bed) {}

    const A: &[Case] = &[case("one", nothing), case("two", nothing).on(Series::V1_7)];
    const B: &[Case] = &[case("three", nothing).on(Series::V2_1)];

    fn check(series: &[Series], words: &[&str], expect: &[&str]) {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let names: Vec<_> = plan(&[("a", A), ("b", B)], series, &words)
            .into_iter()
            .map(|planned| planned.name)
            .collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn every_case_runs_on_each_of_its_containerds() {
        check(
            &Series::ALL,
            &[],
            &[
                "1.6 a::one",
                "1.7 a::one",
                "1.7 a::two",
                "2.1 a::one",
                "2.1 b::three",
            ],
        );
        check(&[Series::V1_6], &[], &["1.6 a::one"]);
    }

    #[test]
    fn words_choose_by_any_part_of_the_name() {
        check(
            &Series::ALL,
            &["two", "b::"],
            &["1.7 a::two", "2.1 b::three"],
        );
        check(&Series::ALL, &["1.7 a"], &["1.7 a::one", "1.7 a::two"]);
        check(&Series::ALL, &["none such"], &[]);
    }
}
