use super::*;

fn section() -> Section {
    let metric = |name, better, compared| Metric { name, better, decimals: 0, compared };
    let competitor = |name: &str, equal| Competitor { name: name.into(), promise: "p", equal };
    let round = |ops: f64, ms: f64| Some(vec![ops, ms]);
    Section {
        id: "durable",
        title: "Durable",
        method: "m".into(),
        metrics: vec![metric("ops/s", Better::Higher, true), metric("ms", Better::Lower, false)],
        systems: vec![competitor("Q", true), competitor("R", true), competitor("S", false)],
        cells: vec![Cell {
            work: "SET".into(),
            values: vec![
                vec![round(2000.0, 1.0), round(3000.0, 3.0), round(4000.0, 2.0)],
                vec![round(1000.0, 1.0), round(2000.0, 1.0), round(1000.0, 1.0)],
                vec![None, None, None],
            ],
            threads_us: vec![("worker".into(), 9.0), ("sync".into(), 1.0), ("idle".into(), 0.0)],
            goals: vec![
                Goal::Ratio { metric: 0, system: 1, at_least: 1.3 },
                Goal::Ratio { metric: 0, system: 2, at_least: 1.3 },
                Goal::Below { metric: 1, limit: 2.0 },
            ],
        }],
        notes: vec!["n".into()],
    }
}

#[test]
fn markdown_states_figures_ratios_goals_and_promises() {
    let text = section().markdown("here");
    for expected in [
        "- Q: p\n- R: p (equal promise)\n- S: p (**not** an equal promise)\n",
        "| SET | Q | 3,000 (2,000–4,000) | 2 (1–3) |",
        "| SET | S | – | – |",
        "| SET | R | 2.00 (1.50–4.00) | ≥ 1.3 (ops/s) | yes |",
        "| SET | S | – | ≥ 1.3 (ops/s) | – |",
        "- SET, ms: wanted below 2, 2 (1–3): not met\n",
        "- SET: worker 9.00, sync 1.00\n",
        "- Note: n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

#[test]
fn json_keeps_every_round_and_the_ratios() {
    let value = section().json();
    let results = &value["cells"][0]["results"];
    assert_eq!(results[0]["metrics"][0]["rounds"], json!([2000.0, 3000.0, 4000.0]));
    assert_eq!(results[1]["metrics"][0]["advantage_of_subject"]["median"], json!(2.0));
    assert_eq!(results[2]["metrics"][0]["summary"], Value::Null);
}

#[test]
fn splice_keeps_prose_and_other_families() {
    let ids = ["durable", "memory"];
    let document = "top\n<!-- bench:begin -->\n<!-- bench:end -->\nfoot\n";
    let first = splice(document, &ids, &[("memory", "M1\n".into())]).unwrap();
    let second = splice(&first, &ids, &[("durable", "D1\n".into())]).unwrap();
    let third = splice(&second, &ids, &[("memory", "M2\n".into())]).unwrap();
    assert_eq!(
        third,
        "top\n<!-- bench:begin -->\n\n<!-- bench:durable -->\n\nD1\n\n<!-- bench:/durable -->\n\n\
         <!-- bench:memory -->\n\nM2\n\n<!-- bench:/memory -->\n\n<!-- bench:end -->\nfoot\n"
    );
    assert_eq!(splice(&third, &ids, &[]).unwrap(), third);
}

#[test]
fn splice_refuses_a_document_without_markers() {
    assert!(splice("text", &[], &[]).unwrap_err().contains("bench:begin"));
    assert!(splice("<!-- bench:end --><!-- bench:begin -->", &[], &[]).is_err());
}

#[test]
fn numbers_are_grouped() {
    assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
    assert_eq!(grouped(999.5, 1), "999.5");
    assert_eq!(grouped(-1234.25, 2), "-1,234.25");
}
