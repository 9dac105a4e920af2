//! The published tables of the reliability study, cell by cell; the chain against whole numbers; the survey's choices.

use super::big::Big;
use super::*;
use crate::placement::{Candidate, PlacementError, Profile, parse_code};
use shoal_protocol::NodeId;
use shoal_protocol::layout::Code;

fn code(text: &str) -> Code {
    parse_code(text).unwrap()
}

/// AFR in per cent and T in hours of the seven columns.
const COLUMNS: [(f64, f64); 7] =
    [(2.0, 24.0), (8.0, 24.0), (8.0, 168.0), (25.0, 24.0), (25.0, 168.0), (60.0, 24.0), (60.0, 168.0)];

/// Code, repair threshold, nines a year in each column.
const YEARLY: [(&str, usize, [f64; 7]); 9] = [
    ("3+1", 3, [4.9, 3.6, 2.8, 2.6, 1.7, 1.6, 0.8]),
    ("4+2", 5, [8.1, 6.3, 4.6, 4.7, 3.0, 3.2, 1.6]),
    ("4+4", 7, [14.9, 11.8, 8.5, 9.1, 5.8, 6.6, 3.4]),
    ("8+4", 11, [13.7, 10.7, 7.3, 8.0, 4.7, 5.5, 2.4]),
    ("8+8", 15, [26.1, 20.6, 13.9, 15.8, 9.2, 11.3, 5.2]),
    ("16+16", 24, [27.8, 21.6, 14.1, 16.3, 9.1, 11.4, 4.8]),
    ("20+20", 30, [32.6, 25.3, 16.1, 18.9, 10.1, 13.1, 5.2]),
    ("10+20", 20, [35.3, 27.9, 18.7, 21.5, 12.5, 15.6, 7.3]),
    ("29+51", 35, [20.9, 16.0, 10.2, 11.7, 6.2, 7.9, 3.1]),
];

#[test]
fn every_cell_of_the_yearly_table_is_reproduced() {
    let mut cells = 0;
    for (name, repair_at, row) in YEARLY {
        for ((afr, hours), published) in COLUMNS.into_iter().zip(row) {
            let churn = Churn::new(afr / 100.0, hours).unwrap();
            let nines = yearly_loss(code(name), repair_at, &churn).year().nines();
            // Half a printed digit, and as much again as rounding itself may take.
            assert!((nines - published).abs() < 0.051, "{name}, {afr} %, {hours} h: {nines}, published {published}");
            cells += 1;
        }
    }
    assert_eq!(cells, 63);
    let lazy = yearly_loss(code("29+51"), 52, &Churn::new(0.08, 168.0).unwrap()).year().nines();
    assert!((lazy - 30.0).abs() < 0.1, "30 nines with r = 52 are published: {lazy}");
}

/// Codes of the columns, and by share of holders away what is printed: one digit and the power of ten.
const TOGETHER_CODES: [&str; 8] = ["4+2", "4+4", "8+4", "8+8", "16+16", "20+20", "10+20", "29+51"];
const TOGETHER: [(f64, [&str; 8]); 4] = [
    (0.05, ["2e-3", "2e-5", "2e-4", "2e-8", "2e-14", "3e-17", "4e-21", "2e-47"]),
    (0.10, ["2e-2", "4e-4", "4e-3", "6e-6", "1e-9", "2e-11", "6e-15", "2e-32"]),
    (0.20, ["1e-1", "1e-2", "7e-2", "2e-3", "3e-5", "5e-6", "5e-9", "3e-18"]),
    (0.30, ["3e-1", "6e-2", "3e-1", "3e-2", "5e-3", "2e-3", "7e-6", "1e-10"]),
];

/// The cells that were rounded twice, to two digits and then half up to one: 2.474 -> 2.5 -> 3. Rounded once they are
/// one digit lower; the values are from exact fractions.
const ROUNDED_TWICE: [(&str, f64, f64); 3] =
    [("20+20", 0.05, 2.474e-17), ("8+8", 0.20, 1.476e-3), ("10+20", 0.20, 4.478e-9)];

#[test]
fn every_cell_of_the_table_of_holders_away_is_reproduced() {
    let mut cells = 0;
    for (away, row) in TOGETHER {
        for (name, published) in TOGETHER_CODES.into_iter().zip(row) {
            let value = lost_together(code(name), away).probability();
            let twice = ROUNDED_TWICE.iter().find(|cell| (cell.0, cell.1) == (name, away));
            match twice {
                Some((.., exact)) => {
                    assert!((value / exact - 1.0).abs() < 5e-4, "{name}, {away}: {value:e}");
                    let two: f64 = format!("{value:.1e}").parse().unwrap();
                    // The printed text of a half is rounded up by hand, not to even.
                    assert_eq!(format!("{:.0e}", two * 1.000_001), published, "{name}, {away}: {value:e}");
                }
                None => assert_eq!(format!("{value:.0e}"), published, "{name}, {away}: {value:e}"),
            }
            cells += 1;
        }
    }
    assert_eq!(cells, 32);
    let unreadable = lost_together(code("4+2"), 0.1).probability();
    assert_eq!(format!("{unreadable:.3}"), "0.016", "4+2 is unreadable 1.6 % of the time");
}

/// Rates as whole multiples of 1/SCALE an hour; both repair times divide it.
const SCALE: u64 = 168 * 1_000_000_000_000_000;

/// ln MTTDL by the published recurrence, b and 1 - b included, in whole numbers over one denominator: nothing is rounded
/// before the logarithm.
fn exact_ln_mttdl(k: u64, n: u64, repair_at: u64, lambda: u64, mu: u64) -> f64 {
    let (mut a, mut b, mut over) = (Big::new(0), Big::new(0), Big::new(1));
    for left in k..n {
        let (loss, repair) = (left * lambda, if left <= repair_at { mu } else { 0 });
        a = over.times(SCALE).plus(&a.times(loss));
        b = b.times(loss).plus(&over.times(repair));
        over = over.times(loss + repair);
    }
    let time = over.times(SCALE).plus(&a.times(n * lambda));
    time.ln() - over.minus(&b).times(n * lambda).ln()
}

#[test]
fn the_chain_loses_no_digit_that_counts() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let fixed = [(1, 1, 1), (3, 1, 3), (8, 8, 15), (29, 51, 35), (127, 128, 254), (1, 254, 254), (254, 1, 254)];
    let random: Vec<(u64, u64, u64)> = (0..150)
        .map(|_| {
            let k = 1 + draw(60);
            let m = 1 + draw(60);
            (k, m, draw(k + m + 2))
        })
        .collect();
    for (k, m, repair_at) in fixed.into_iter().chain(random) {
        for afr in [0.001, 0.08, 0.6] {
            for hours in [1u64, 24, 168] {
                let n = k + m;
                let churn = Churn::new(afr, hours as f64).unwrap();
                let lambda = (-(-afr).ln_1p() / HOURS_PER_YEAR * SCALE as f64).round() as u64;
                let exact = exact_ln_mttdl(k, n, repair_at, lambda, SCALE / hours);
                let hazard = yearly_loss(Code::new(k as usize, m as usize).unwrap(), repair_at as usize, &churn);
                let off = (hazard.ln_mttdl_hours() - exact).abs() / core::f64::consts::LN_10;
                // lambda itself is rounded to 1/SCALE: up to 1e-11 of it at 0.1 % a year, and up to 254 times so.
                assert!(off < 1e-8, "{k}+{m}, r {repair_at}, {afr}, {hours} h: {off} nines off");
            }
        }
    }
}

#[test]
fn the_ends_of_the_scale_stay_numbers() {
    for code in [code("1+1"), code("254+1"), code("1+254"), code("127+128")] {
        for (afr, hours) in [(f64::EPSILON, 1e-6), (1e-9, 1e-6), (0.999_999_999, 87_660.0), (0.08, 24.0)] {
            let churn = Churn::new(afr, hours).unwrap();
            for repair_at in [0, code.k(), code.n(), usize::MAX] {
                let nines = yearly_loss(code, repair_at, &churn).year().nines();
                assert!(nines.is_finite() && nines >= 0.0, "{code}, {afr}, {hours}, {repair_at}: {nines}");
            }
            assert!(lost_together(code, afr).nines().is_finite());
        }
        assert_eq!(lost_together(code, 0.0).probability(), 0.0);
        assert_eq!(lost_together(code, f64::NAN).probability(), 1.0);
        assert_eq!(lost_together(code, 1.0).probability(), 1.0);
    }
    for (afr, hours) in [(0.0, 24.0), (1.0, 24.0), (f64::NAN, 24.0), (-0.1, 24.0)] {
        assert_eq!(Churn::new(afr, hours), Err(ChurnError::YearlyFailures));
    }
    for hours in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert_eq!(Churn::new(0.08, hours), Err(ChurnError::RepairHours));
    }
}

#[test]
fn more_repair_more_parity_and_less_churn_never_cost_nines() {
    let churn = Churn::default();
    let nines = |text: &str, repair_at, churn: &Churn| yearly_loss(code(text), repair_at, churn).year().nines();
    assert!((0..12).map(|repair_at| nines("4+8", repair_at, &churn)).is_sorted());
    assert!(["4+1", "4+2", "4+3", "4+4", "4+5"].map(|text| nines(text, 4, &churn)).is_sorted());
    assert!([0.6, 0.25, 0.08, 0.02].map(|afr| nines("4+2", 5, &Churn::new(afr, 24.0).unwrap())).is_sorted());
    assert!([168.0, 24.0, 1.0].map(|hours| nines("4+2", 5, &Churn::new(0.08, hours).unwrap())).is_sorted());
}

#[test]
fn segments_that_fail_apart_add_up() {
    let hazard = yearly_loss(code("4+2"), 5, &Churn::default());
    let (one, million) = (hazard.year(), hazard.year_apart(1_000_000));
    assert_eq!(hazard.year_apart(1), one);
    assert_eq!(hazard.year_apart(0), one);
    // Finding 3 of the study: a terabyte of 1 MiB chunks in 4+2, each placed by itself, loses one with about 40 % a year.
    assert!((0.39..0.42).contains(&million.probability()), "{million:?}");
    let naive = 1.0 - (1.0 - one.probability()).powi(1_000_000);
    assert!((million.probability() - naive).abs() < 1e-6, "{naive}");
}

fn nodes(count: u8, free_bytes: u64) -> Vec<Candidate> {
    let one =
        |n| Candidate { node: NodeId::from_bytes([n; 32]), free_bytes, standing: 1.0, domain: None, observed_ip: None };
    (0..count).map(one).collect()
}

fn row<'a>(survey: &'a Survey, text: &str) -> &'a Row {
    survey.rows.iter().find(|row| row.code == code(text)).unwrap()
}

#[test]
fn all_codes_that_fit_are_listed_once_and_the_default_is_the_uploads() {
    let survey = survey(&Question::default(), &nodes(7, 1 << 40)).unwrap();
    let codes: Vec<String> = survey.rows.iter().map(|row| row.code.to_string()).collect();
    assert_eq!(codes, ["1+1", "1+2", "2+2", "3+2", "2+4", "3+3", "4+2"]);
    assert_eq!((survey.default, survey.recommended), (Some(5), Some(5)));
    assert_eq!(row(&survey, "3+3").profiles, [Profile::Balanced]);
    assert_eq!(row(&survey, "2+4").profiles, [Profile::Resilient]);
    assert_eq!(row(&survey, "3+2").profiles, [Profile::Mobile]);
    assert_eq!((row(&survey, "4+2").cost, row(&survey, "4+2").size), (1.5, None));
    assert!(row(&survey, "4+2").outlook.is_spread() && row(&survey, "3+3").room);
    assert_eq!(super::survey(&Question::default(), &nodes(200, 1)).unwrap().rows.len(), CODES.len());
}

#[test]
fn too_few_nodes_is_an_error_and_no_spare_means_no_repair() {
    let not_enough = |have, need| Err(PlacementError::NotEnoughNodes { have, need });
    assert_eq!(survey(&Question::default(), &nodes(1, 1 << 40)), not_enough(1, 2));
    assert_eq!(survey(&Question::default(), &[]), not_enough(0, 2));
    let only = Question { only: Some(Profile::Exact(code("4+2"))), ..Question::default() };
    assert_eq!(survey(&only, &nodes(5, 1 << 40)), not_enough(5, 6));
    assert_eq!(survey(&only, &nodes(6, 0)), not_enough(0, 6), "a full node is none");

    let tight = survey(&only, &nodes(6, 1 << 40)).unwrap();
    assert_eq!((tight.rows.len(), tight.rows[0].outlook.spares(code("4+2"))), (1, 0));
    assert_eq!(tight.rows[0].nines(), tight.rows[0].unrepaired.nines());
    let roomy = survey(&only, &nodes(7, 1 << 40)).unwrap();
    assert_eq!(roomy.rows[0].nines(), roomy.rows[0].repaired.nines());
    assert!(roomy.rows[0].nines() > 6.0 && tight.rows[0].nines() < 3.0);
}

#[test]
fn the_cheapest_code_that_reaches_the_target_is_recommended() {
    let asked = |target| {
        let question = Question { target_nines: Some(target), ..Question::default() };
        let survey = survey(&question, &nodes(32, 1 << 40)).unwrap();
        survey.recommended.map(|at| survey.rows[at].code.to_string())
    };
    assert_eq!(asked(6.0).as_deref(), Some("8+4"), "4+2 costs as much and has less");
    assert_eq!(asked(11.0).as_deref(), Some("8+8"));
    assert_eq!(asked(25.0).as_deref(), Some("10+20"), "16+16 has no spare among 32");
    assert_eq!(asked(400.0), None);
}

#[test]
fn a_domain_that_takes_all_is_named_and_never_meets_a_target() {
    let mut some = nodes(5, 1 << 40);
    for candidate in some.iter_mut().take(3) {
        candidate.domain = Some("cellar".into());
    }
    let survey_of = |question: &Question, some: &[Candidate]| survey(question, some).unwrap();
    let only = Question { only: Some(Profile::Exact(code("3+2"))), ..Question::default() };
    let one = survey_of(&only, &some);
    let outlook = &one.rows[0].outlook;
    assert_eq!((outlook.wanted_cap, outlook.domain_cap, outlook.is_spread()), (1, 3, false));
    assert_eq!(
        outlook.fatal.iter().map(|(domain, slots)| (domain.to_string(), *slots)).collect::<Vec<_>>(),
        [("cellar".into(), 3)]
    );
    assert_eq!(one.recommended, Some(0), "the only one, with its warning");
    let target = Question { target_nines: Some(0.1), ..only };
    assert_eq!(survey_of(&target, &some).recommended, None);
    let all = survey_of(&Question::default(), &some);
    assert!(!all.rows[all.recommended.unwrap()].is_fatal());
}

#[test]
fn room_is_asked_of_every_holder() {
    let question = |size| Question { size: Some(size), ..Question::default() };
    let small = survey(&question(10_000_000), &nodes(7, 4_000_000)).unwrap();
    let room: Vec<bool> = small.rows.iter().map(|row| row.room).collect();
    // 10 MB in k parts: k = 3 and 4 fit into 4 MB, 1 and 2 do not.
    assert_eq!(room, [false, false, false, true, false, true, true]);
    assert_eq!(small.recommended, small.default);
    let none = survey(&question(1 << 40), &nodes(7, 4_000_000)).unwrap();
    assert_eq!(none.recommended, None);
    assert!(none.rows.iter().all(|row| !row.room));
}

#[test]
fn sizes_follow_the_layout() {
    assert_eq!(size_in_code(code("4+2"), 0), (0, 0));
    assert_eq!(size_in_code(code("4+2"), 1), (17, 1));
    let one = code("4+2").segment_plain() as u64;
    let (bytes, segments) = size_in_code(code("4+2"), 10 * one);
    assert_eq!(segments, padme_segments(10 * one, one));
    let overhead = bytes as f64 * 4.0 / (10.0 * one as f64);
    assert!((1.0..1.13).contains(&overhead), "{overhead}");
    assert!(size_in_code(code("1+1"), u64::MAX).0 > 1 << 63);
}

fn padme_segments(size: u64, segment: u64) -> u64 {
    shoal_protocol::layout::padme(size).div_ceil(segment)
}
