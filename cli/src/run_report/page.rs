//! The page: text, tables and the place of each chart. It holds all it needs and opens without a network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::Chart;
use super::charts::Section;
use super::run::Run;
use super::tables;
use crate::failure::Failure;

/// Draws the whole page.
pub(super) fn page(runs: &[Run], sections: &[Section]) -> Result<String, Failure> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("Run report: {}", names.join(" and "));
    let mut number = 0;
    let mut drawn = Vec::with_capacity(sections.len());
    for section in sections {
        let mut figures = Vec::with_capacity(section.charts.len());
        for chart in &section.charts {
            figures.push(figure(chart, number)?);
            number += 1;
        }
        drawn.push((section.title, figures));
    }
    let tables = [("Most influential negatives", tables::influential(runs)), ("Events", tables::events(runs))];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // An icon of its own, so that a browser does not look for one.
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    nav aria-label="Sections" {
                        a href="#summary" { "Summary" }
                        @for (title, _) in &drawn { a href={ "#" (anchor(title)) } { (title) } }
                        @for (title, table) in &tables { @if table.is_some() { a href={ "#" (anchor(title)) } { (title) } } }
                    }
                }
                main {
                    section id="summary" {
                        h2 { "Summary" }
                        (tables::summary(runs))
                    }
                    @for (title, figures) in &drawn {
                        section id=(anchor(title)) {
                            h2 { (title) }
                            div class=(if runs.len() == 2 { "charts two" } else { "charts" }) { @for figure in figures { (figure) } }
                        }
                    }
                    @for (title, table) in &tables {
                        @if let Some(table) = table {
                            section id=(anchor(title)) { h2 { (title) } (table) }
                        }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-")
}

fn figure(chart: &Chart, number: usize) -> Result<Markup, Failure> {
    let drawing = chart.draw()?;
    Ok(html! {
        figure {
            figcaption { (chart.title) p { (chart.says) } }
            ul class="legend" {
                @for (name, colour) in chart.layers.iter().filter_map(|layer| layer.label()) {
                    li { span class={ "c" (colour % 10) } aria-hidden="true" {} (name) }
                }
                @if !chart.marks.is_empty() { li { "vertical lines: events" } }
            }
            svg viewBox=(Chart::view_box()) role="img" aria-labelledby={ "title" (number) " says" (number) } {
                title id={ "title" (number) } { (chart.title) }
                desc id={ "says" (number) } { (chart.says) " Horizontal: " (chart.x) "; vertical: " (chart.y) "." }
                (PreEscaped(drawing))
            }
            details {
                summary { "Figures" }
                div class="scroll" { (tables::figures(chart)) }
            }
        }
    })
}
