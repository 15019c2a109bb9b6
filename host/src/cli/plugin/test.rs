//! `millrace plugin test`: the golden cases through the real operator, then the laws of aggregation.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use serde_json::json;

use super::project::Project;
use super::{Form, TestArgs, load};
use crate::cli::Failure;
use crate::cli::open::colour;
use crate::golden::operator::silently;
use crate::golden::run::Way;
use crate::golden::table::Table;
use crate::golden::transform::{self, TransformSubject};
use crate::golden::{Case, Difference, Outcome, Subject, case, compare, update};
use crate::laws::{Law, LawSubject, Trial, check, data, save, shrink};
use crate::plugin::{AggregatorFactory, Kind, TransformerFactory, inspect};
use crate::spec::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::suggest;

pub fn run(args: &TestArgs) -> Result<(), Failure> {
    let project = if args.path.is_dir() { Some(Project::load(&args.path)?) } else { None };
    let files = files(args, project.as_ref())?;
    let component = project.as_ref().map_or(args.path.as_path(), |project| project.component.as_path());
    if let Some(project) = &project {
        warn_if_stale(project);
    }
    let artifact = load::artifact(component, project.as_ref())?;
    let engine = load::engine()?;
    let info = inspect(&engine, &artifact).map_err(anyhow::Error::new)?.info;
    let mut report = Report { form: args.format, lines: Vec::new(), differs: false };
    report.head(&format!("{} {} ({})  {}", info.name, info.version, artifact.kind().name(), component.display()));

    let mut cases = Vec::new();
    for file in &files {
        match case::load(file, artifact.kind()) {
            Ok(case) => cases.push(case),
            Err(found) => report.wrong_file(&name_of(file), &found),
        }
    }
    match artifact.kind() {
        Kind::Aggregation => {
            let factory = load::aggregation(&engine, &artifact)?;
            let mut subjects = Vec::new();
            for case in &cases {
                if let Some(law) = &case.law {
                    test_law_case(&factory, case, law, &mut report);
                } else if let Some(subject) = test_aggregation(&factory, case, args.update, &mut report)? {
                    subjects.push((case, subject));
                }
            }
            if !args.no_laws && !args.update && (args.case.is_empty() || project.is_none()) {
                let folder = project.as_ref().map(Project::tests);
                test_laws(subjects, &cases, folder.as_deref(), &mut report)?;
            }
        }
        Kind::Transform => {
            let factory = load::transform(&engine, &artifact)?;
            for case in &cases {
                test_transform(&factory, case, args.update, &mut report)?;
            }
        }
        Kind::Join => report.head("it loads; cases of joins come with the join operator"),
    }
    report.finish(&project.map_or_else(|| "millrace plugin test …".to_owned(), |project| project.command("test")))
}

/// The cases that are meant.
fn files(args: &TestArgs, project: Option<&Project>) -> Result<Vec<PathBuf>, Failure> {
    let Some(project) = project else {
        if args.case.is_empty() {
            let path = args.path.display();
            let hint = if args.path.exists() {
                format!("`millrace plugin test {path} --case FILE.toml` names a case")
            } else {
                "name a plugin's folder, or a component with --case".to_owned()
            };
            let what = if args.path.exists() { "is not a folder: which case?" } else { "does not exist" };
            return Err(Failure::Usage(format!("error: {path} {what}\nhint: {hint}")));
        }
        return Ok(args.case.iter().map(PathBuf::from).collect());
    };
    let all = project.cases();
    if all.is_empty() && project.kind == Kind::Join {
        return Ok(all);
    }
    if all.is_empty() {
        return Err(Failure::Usage(format!(
            "error: {} has no cases (*.toml)\nhint: docs/plugins.md, \"Golden cases\", has one to start from",
            project.tests().display()
        )));
    }
    if args.case.is_empty() {
        return Ok(all);
    }
    let names: Vec<String> = all.iter().map(|path| name_of(path)).collect();
    let mut files = Vec::new();
    for wanted in &args.case {
        let wanted = wanted.strip_suffix(".toml").unwrap_or(wanted);
        match names.iter().position(|name| name == wanted) {
            Some(index) => files.extend(all.get(index).cloned()),
            None => {
                let near = suggest::did_you_mean(wanted, names.iter().map(String::as_str)).unwrap_or_default();
                let tests = project.tests();
                return Err(Failure::Usage(format!("error: {} has no case `{wanted}`\nhint: {near}", tests.display())));
            }
        }
    }
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A source that is newer than what is tested.
fn warn_if_stale(project: &Project) {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let Some(built) = modified(&project.component) else { return };
    let sources = ["src", ""].into_iter().flat_map(|folder| std::fs::read_dir(project.dir.join(folder)).ok());
    let newer = sources.flatten().flatten().map(|entry| entry.path()).find(|path| {
        let is_source = path.extension().is_some_and(|e| ["rs", "js", "py", "c", "h"].iter().any(|known| e == *known));
        is_source && modified(path).is_some_and(|at| at > built)
    });
    if let Some(path) = newer {
        let (path, command) = (path.display(), project.command("build"));
        eprintln!("warning: {path} is newer than the component that is tested\nhint: `{command}` first");
    }
}

fn test_aggregation(
    factory: &Arc<dyn AggregatorFactory>,
    case: &Case,
    accept: bool,
    report: &mut Report,
) -> Result<Option<Subject>, Failure> {
    let opened = Subject::open(factory, case).and_then(|subject| Ok((case.expected(subject.output())?, subject)));
    let (expected, subject) = match opened {
        Ok(opened) => opened,
        Err(found) => {
            report.wrong_file(&case.name, &found);
            return Ok(None);
        }
    };
    let table = |batches: &[_]| Table::of_results(subject.output(), case.key.len(), batches);
    let golden = Golden { case, expected: &expected, table: &table, accept };
    golden.test(&Way::ALL, |way| subject.run(case, way), report)?;
    Ok(Some(subject))
}

fn test_transform(
    factory: &Arc<dyn TransformerFactory>,
    case: &Case,
    accept: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let opened = TransformSubject::open(factory, case).and_then(|s| Ok((case.expected(&s.output)?, s)));
    let (expected, subject) = match opened {
        Ok(opened) => opened,
        Err(found) => {
            report.wrong_file(&case.name, &found);
            return Ok(());
        }
    };
    let table = |batches: &[_]| Table::of_rows(&subject.output, batches);
    let golden = Golden { case, expected: &expected, table: &table, accept };
    golden.test(&transform::Way::ALL, |way| subject.run(case, way), report)
}

/// A case with what it expects, by step.
struct Golden<'a> {
    case: &'a Case,
    expected: &'a [RecordBatch],
    table: &'a dyn Fn(&[RecordBatch]) -> Table,
    /// what comes out is right
    accept: bool,
}

impl Golden<'_> {
    /// Runs it in every way; the first one that differs is shown.
    fn test<W: Copy + Display>(
        &self,
        ways: &[W],
        run: impl Fn(W) -> Result<Outcome, String>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let case = self.case;
        for (number, way) in ways.iter().enumerate() {
            let outcome = match run(*way) {
                Ok(outcome) => outcome,
                Err(error) => {
                    report.failed("case", &case.name, &format!("  {way}: {error}\n"), json!({ "error": error }));
                    return Ok(());
                }
            };
            let tables: Vec<Table> = outcome.iter().map(|step| (self.table)(&step.rows)).collect();
            let differences = self.differences(&outcome, &tables);
            if differences.is_empty() {
                continue;
            }
            if self.accept && number == 0 {
                let outcome: Vec<_> = outcome.into_iter().zip(tables).collect();
                std::fs::write(&case.path, update::update(case, &outcome, &differences))
                    .map_err(|e| anyhow::anyhow!("cannot write {}: {e}", case.path.display()))?;
                report.passed("case", &case.name, &format!("updated {}", case.path.display()));
                return Ok(());
            }
            let mut shown: String = differences.iter().map(Difference::to_string).collect();
            report.differs |= number == 0;
            if let Some(first) = ways.first().filter(|_| number > 0) {
                shown = format!("  {way} ({first} it is right)\n{shown}");
            }
            report.failed("case", &case.name, &shown, json!({ "way": way.to_string(), "difference": shown }));
            return Ok(());
        }
        let rows: usize = case.steps.iter().map(|step| step.events.num_rows()).sum();
        report.passed(
            "case",
            &case.name,
            &format!("{} in {}", counted(rows, "event"), counted(case.steps.len(), "step")),
        );
        Ok(())
    }

    fn differences(&self, outcome: &Outcome, tables: &[Table]) -> Vec<Difference> {
        (1..)
            .zip(self.case.steps.iter().zip(self.expected))
            .zip(outcome.iter().zip(tables))
            .filter_map(|((number, (step, expected)), (came, got))| {
                let expected = (self.table)(std::slice::from_ref(expected));
                compare(number, expected, got, (&step.rejected, step.late), came, self.case.tolerance)
            })
            .collect()
    }
}

/// `1 event`, `2 events`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A violation that was found before: the steps are the parts.
fn test_law_case(factory: &Arc<dyn AggregatorFactory>, case: &Case, law: &str, report: &mut Report) {
    let wrong = |case: &Case, found: Diagnostic| case.wrong(vec![found]);
    let Some(law) = Law::named(law) else {
        let known = Law::ALL.map(Law::name);
        let found = Diagnostic::error(case.spans.value(&["law"]), format!("there is no law `{law}`"))
            .hint_if_any(suggest::did_you_mean(law, known.iter().copied()));
        report.wrong_file(&case.name, &wrong(case, found));
        return;
    };
    let subject = match Subject::open(factory, case) {
        Ok(subject) => subject,
        Err(found) => {
            report.wrong_file(&case.name, &found);
            return;
        }
    };
    let broken = match LawSubject::new(subject, case) {
        Ok(subject) => silently(|| check(law, &subject, &Trial::of_steps(case))).map(|broken| broken.0),
        Err(error) => Some(error.to_string()),
    };
    match broken {
        None => report.passed("case", &case.name, &format!("law {}", law.name())),
        Some(what) => {
            let shown = format!("  law {}: {}\n  {what}\n", law.name(), law.says());
            report.failed("case", &case.name, &shown, json!({ "law": law.name(), "seen": what }));
        }
    }
}

/// Cases that differ in what the plugin is opened with; more than a few add little.
const LAW_SUBJECTS_MAX: usize = 3;

fn test_laws(
    subjects: Vec<(&Case, Subject)>,
    cases: &[Case],
    folder: Option<&Path>,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut different: Vec<(&Case, LawSubject, Vec<Trial>)> = Vec::new();
    for (case, subject) in subjects {
        let same = |(other, _, _): &(&Case, LawSubject, Vec<Trial>)| {
            (&other.config, &other.key, &other.schema.schema, &other.columns)
                == (&case.config, &case.key, &case.schema.schema, &case.columns)
        };
        if different.len() == LAW_SUBJECTS_MAX || different.iter().any(same) {
            continue;
        }
        let subject = LawSubject::new(subject, case).map_err(anyhow::Error::new)?;
        let trials = data::trials(&subject, case);
        different.push((case, subject, trials));
    }
    if different.is_empty() {
        return Ok(());
    }
    for law in Law::ALL {
        let known_broken = cases.iter().any(|case| case.law.as_deref() == Some(law.name()));
        if different.iter().all(|(_, subject, _)| subject.signature.ordered) && law.is_about_order() {
            report.excused(law.name(), "the plugin says that its result depends on order");
            continue;
        }
        let found = different.iter().find_map(|(case, subject, trials)| {
            let (trial, seen) = trials
                .iter()
                .find_map(|trial| silently(|| check(law, subject, trial)).map(|seen| (trial.clone(), seen)))?;
            Some((*case, subject, silently(|| shrink::shrink(law, subject, trial, seen))))
        });
        let Some((case, subject, (trial, seen))) = found else {
            let rows: usize = different.iter().flat_map(|(_, _, trials)| trials).map(|trial| trial.rows.len()).sum();
            report.passed("law", law.name(), &format!("{rows} rows"));
            continue;
        };
        let text = save::text(law, subject, case, &trial, &seen);
        let mut shown = format!("  {}: not so here\n  {}\n", law.says(), seen.0);
        let file = folder.map(|folder| folder.join(save::file_name(law)));
        if let Some(file) = file.filter(|_| !known_broken) {
            std::fs::write(&file, &text).map_err(|e| anyhow::anyhow!("cannot write {}: {e}", file.display()))?;
            shown.push_str(&format!("  the smallest case is saved as {}\n", file.display()));
        }
        for (part, row) in &trial.rows {
            shown.push_str(&format!("    part {} {}\n", part + 1, serde_json::Value::Object(row.clone())));
        }
        if law.is_about_order() {
            shown.push_str("  hint: one that depends on order on purpose says so: `ordered` in its signature\n");
        }
        report.failed("law", law.name(), &shown, json!({ "seen": seen.0, "case": text }));
    }
    Ok(())
}

struct Report {
    form: Form,
    lines: Vec<Line>,
    /// some case could be updated
    differs: bool,
}

struct Line {
    what: &'static str,
    passed: bool,
    json: serde_json::Value,
}

impl Report {
    fn head(&self, text: &str) {
        if self.form == Form::Text {
            println!("{text}");
        }
    }

    fn passed(&mut self, what: &'static str, name: &str, note: &str) {
        if self.form == Form::Text {
            println!("{what} {name}: ok ({note})");
        }
        self.lines.push(Line { what, passed: true, json: json!({ what: name, "ok": true, "note": note }) });
    }

    fn excused(&mut self, law: &str, why: &str) {
        if self.form == Form::Text {
            println!("law {law}: excused ({why})");
        }
        self.lines.push(Line {
            what: "excused",
            passed: true,
            json: json!({ "law": law, "ok": true, "excused": why }),
        });
    }

    fn failed(&mut self, what: &'static str, name: &str, shown: &str, details: serde_json::Value) {
        if self.form == Form::Text {
            println!("{what} {name}: FAILED\n{}", shown.trim_end());
        }
        self.lines.push(Line { what, passed: false, json: json!({ what: name, "ok": false, "details": details }) });
    }

    fn wrong_file(&mut self, name: &str, found: &Diagnostics) {
        if self.form == Form::Text {
            println!("case {name}: FAILED");
            eprintln!("{}", found.render(colour()).trim_end());
        }
        let json = json!({ "case": name, "ok": false, "errors": found.to_json() });
        self.lines.push(Line { what: "case", passed: false, json });
    }

    fn finish(self, command: &str) -> Result<(), Failure> {
        let count = |what: &str, passed: bool| {
            self.lines.iter().filter(|line| line.what == what && line.passed == passed).count()
        };
        let ok = self.lines.iter().all(|line| line.passed);
        if self.form == Form::Json {
            let all: Vec<&serde_json::Value> = self.lines.iter().map(|line| &line.json).collect();
            println!("{}", json!({ "ok": ok, "results": all }));
        } else {
            let mut line = format!("{} passed, {} failed", counted(count("case", true), "case"), count("case", false));
            if self.lines.iter().any(|line| line.what == "law") {
                line.push_str(&format!(
                    "; {} hold, {} do not",
                    counted(count("law", true), "law"),
                    count("law", false)
                ));
            }
            println!("{line}");
        }
        if ok {
            return Ok(());
        }
        let hint = if self.differs && self.form == Form::Text {
            format!("\nhint: if what came out is right, `{command} --update` writes it into the cases")
        } else {
            String::new()
        };
        Err(Failure::Other(anyhow::anyhow!(
            "{} of {} checks failed{hint}",
            self.lines.iter().filter(|line| !line.passed).count(),
            self.lines.len()
        )))
    }
}
