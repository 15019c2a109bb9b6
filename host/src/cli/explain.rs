//! `millrace explain`: what each operator waits for.

use super::reach::Reach;
use super::{Failure, Form};
use crate::api::model::{Explanation, OperatorStatus};

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// only this operator
    pub operator: Option<String>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

pub fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    let json = |value: serde_json::Result<String>| value.map_err(|e| Failure::Other(e.into()));
    let Some(name) = &args.operator else {
        let explanation: Explanation = run.get("/explain")?;
        match args.format {
            Form::Text => print!("{}", explanation.text()),
            Form::Json => println!("{}", json(serde_json::to_string_pretty(&explanation))?),
        }
        return Ok(());
    };
    let nodes = &run.status.nodes;
    if !nodes.iter().any(|n| n.name == *name && n.kind.is_operator()) {
        let operators: Vec<&str> = nodes.iter().filter(|n| n.kind.is_operator()).map(|n| n.name.as_str()).collect();
        let there =
            if operators.is_empty() { "it has none".to_owned() } else { format!("it has {}", operators.join(", ")) };
        return Err(Failure::Usage(format!("pipeline `{}` has no operator `{name}`; {there}", run.status.name)));
    }
    let operator: OperatorStatus = run.get(&format!("/operators/{name}"))?;
    match (args.format, &operator.explanation) {
        (Form::Json, _) => println!("{}", json(serde_json::to_string_pretty(&operator))?),
        (Form::Text, None) => {
            let inputs = operator.node.inputs.join(", ");
            println!("{name}: it keeps no event time of its own, and passes on that of its inputs ({inputs})");
        }
        (Form::Text, Some(explanation)) => {
            let mut lines = vec![explanation.answer.clone(), String::new()];
            explanation.lines(run.status.now_at_ms, &mut lines);
            println!("{}", lines.join("\n"));
        }
    }
    Ok(())
}
