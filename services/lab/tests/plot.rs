//! The figures of a recording, as SVG and as PNG.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use container_manager::recording::{Entry, Record};
use lab::plot;
use units::{Amount, Billing, ContainerId, CpuTime, MilliCores, Restriction, Standing};

/// The part of a long run in which the money runs out and comes again, ten times faster than described.
fn recording() -> Vec<Entry> {
    let container = ContainerId::new();
    let mut entries = Vec::new();
    let mut tell = |at_s: u64, record: Record| {
        entries.push(Entry {
            at_us: at_s * 100_000,
            record,
        });
    };
    let funds = |halfords: i64, standing| Record::Funds {
        user: "alice".parse().unwrap(),
        balance: Amount::from_halfords(halfords),
        debt_limit: Amount::from_halfords(50_000_000),
        standing,
        billing: Billing::Used,
    };
    let tasks = |pending, running| Record::Tasks {
        function: "stress".parse().unwrap(),
        pending,
        running,
    };
    let sample = |used_ms: u64, millicores, restriction| Record::Sample {
        container,
        used_us: CpuTime::from_micros(used_ms * 100),
        nr_periods: 0,
        nr_throttled: 0,
        throttled_us: 0,
        allocation_millicores: MilliCores::from_millicores(millicores),
        restriction,
    };

    tell(
        0,
        Record::Run {
            name: "a run <by hand>".to_owned(),
            speed: 10,
            capacity_millicores: MilliCores::from_cores(4),
        },
    );
    tell(0, funds(100_000_000, Standing::Good));
    tell(0, tasks(3, 0));
    tell(
        2,
        Record::ContainerStarted {
            container,
            function: "stress".parse().unwrap(),
            user: "alice".parse().unwrap(),
            policy: "tracking".to_owned(),
            min_millicores: MilliCores::ZERO,
            max_millicores: MilliCores::from_cores(4),
            boundary_millicores: MilliCores::from_millicores(250),
        },
    );
    tell(2, tasks(2, 1));
    tell(2, sample(0, 1000, Restriction::None));
    // 600 core-seconds a GRC, three cores: all is spent after 200 s; then half a core.
    for second in (10..=200).step_by(10) {
        tell(second, sample((second - 2) * 3000, 3250, Restriction::None));
        let spent = i64::try_from(second).unwrap() * 500_000;
        tell(second, funds(100_000_000 - spent, Standing::Good));
    }
    let debt = 198 * 3000;
    for second in (201..=400).step_by(10) {
        tell(
            second,
            sample(debt + (second - 200) * 500, 500, Restriction::Throttle),
        );
        let owed = i64::try_from(second - 200).unwrap() * 83_333;
        tell(second, funds(-owed, Standing::InDebt));
    }
    tell(
        400,
        Record::Deposit {
            user: "alice".parse().unwrap(),
            amount: Amount::from_halfords(200_000_000),
        },
    );
    tell(400, funds(184_000_000, Standing::Good));
    tell(400, tasks(0, 1));
    let paid = debt + 200 * 500;
    tell(401, sample(paid + 500, 2250, Restriction::None));
    tell(450, sample(paid + 500 + 49 * 2000, 2250, Restriction::None));
    tell(450, tasks(0, 0));
    tell(500, sample(paid + 500 + 49 * 2000, 0, Restriction::None));
    tell(510, Record::ContainerEnded { container });
    tell(550, funds(167_000_000, Standing::Good));
    entries
}

#[test]
fn each_figure_says_what_it_shows_and_in_which_unit() {
    let figures = plot::figures(&recording());
    for (figure, said) in figures.iter().zip([
        &[
            "Funds: a run &lt;by hand&gt;",
            ">funds (GRC)<",
            ">balance<",
            ">debt limit<",
            ">zero<",
            ">+2 GRC<",
            ">1.5<",
        ][..],
        &[
            "CPU: ",
            ">CPU (cores)<",
            ">max<",
            ">allocated<",
            ">used<",
            ">restricted<",
        ],
        &["Tasks: ", ">tasks<", ">pending<", ">running<", ">3<"],
    ]) {
        for text in said.iter().chain([&">time (s of the run described)<", &">500<"]) {
            assert!(
                figure.svg.contains(text),
                "{}: no {text} in {}",
                figure.name,
                figure.svg
            );
        }
    }
}

#[test]
fn lines_differ_in_dash_as_well_as_in_colour() {
    for figure in plot::figures(&recording()) {
        let attribute = |line: &str, name: &str| {
            let value = line.split_once(&format!(" {name}=\"")).map(|(_, rest)| rest);
            value
                .and_then(|rest| rest.split('"').next())
                .unwrap_or_default()
                .to_owned()
        };
        let legend = figure.svg.lines().filter(|line| line.contains("h280\""));
        let looks: Vec<(String, String)> = legend
            .map(|line| (attribute(line, "stroke"), attribute(line, "stroke-dasharray")))
            .collect();
        assert!(looks.len() >= 2, "{looks:?}");
        for (number, (colour, dash)) in looks.iter().enumerate() {
            for (other_colour, other_dash) in &looks[number + 1..] {
                assert!(
                    colour != other_colour && dash != other_dash,
                    "{}: {looks:?}",
                    figure.name
                );
            }
        }
    }
}

#[test]
fn the_same_recording_gives_the_same_svg_and_a_png_with_text_on_any_machine() {
    let entries = recording();
    let folder = tempfile::tempdir().unwrap();
    let written = plot::write(&entries, folder.path()).unwrap();
    let names: Vec<String> = written
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "funds.svg",
            "funds.png",
            "cpu.svg",
            "cpu.png",
            "tasks.svg",
            "tasks.png"
        ]
    );
    for figure in plot::figures(&entries) {
        let path = folder.path().join(figure.name);
        assert_eq!(
            std::fs::read_to_string(path.with_extension("svg")).unwrap(),
            figure.svg
        );
        let png = std::fs::read(path.with_extension("png")).unwrap();
        assert_eq!(png, figure.png().unwrap());
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");

        let mut without_text = figure.clone();
        without_text.svg = figure.svg.replace("<text", "<desc").replace("</text", "</desc");
        assert_ne!(without_text.png().unwrap(), png, "{} has no text", figure.name);
    }
}

#[test]
fn a_recording_of_nothing_is_drawn_too() {
    for figure in plot::figures(&[]) {
        figure.png().unwrap();
    }
}
