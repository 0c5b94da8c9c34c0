/** The console's style sheet: system fonts, light and dark, from 320 px. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f6f7f9; --line: #d5d9e0; --text: #1a1d23; --soft: #545c6b; --link: #0b57c2;
  --green: #0d6b3d; --red: #b3261e; --amber: #865300; --grey: #545c6b; --focus: #0b57c2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --panel: #1d2026; --line: #3a404b; --text: #e9ebef; --soft: #a9b1bf; --link: #8ab8ff;
    --green: #6fd39a; --red: #ff9a92; --amber: #f2bd64; --grey: #a9b1bf; --focus: #8ab8ff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
.skip { position: absolute; left: -9999px; }
.skip:focus { left: 8px; top: 8px; background: var(--ground); padding: 8px; z-index: 2; }
header { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: center; padding: 10px 20px; border-bottom: 1px solid var(--line); background: var(--panel); }
header nav { display: flex; flex-wrap: wrap; gap: 4px 16px; }
header nav a { text-decoration: none; padding: 4px 0; }
header nav a[aria-current] { color: var(--text); font-weight: 600; border-bottom: 2px solid var(--text); }
.brand { font-weight: 700; color: var(--text); text-decoration: none; }
.who { margin-left: auto; display: flex; gap: 10px; align-items: center; color: var(--soft); min-width: 0; overflow-wrap: anywhere; }
.who form { margin: 0; }
main { padding: 16px 20px 60px; max-width: 1440px; margin: 0 auto; outline: none; }
h1 { font-size: 22px; margin: 4px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 26px 0 8px; }
p { margin: 8px 0; max-width: 80ch; }
.soft, .none { color: var(--soft); }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; }
.narrow { max-width: 460px; }
.split { display: grid; gap: 20px; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 900px) { .split { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
form.search { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); align-items: end; }
label { display: block; font-size: 13px; color: var(--soft); }
input, select, textarea { width: 100%; font: inherit; color: var(--text); background: var(--ground); border: 1px solid var(--soft); border-radius: 4px; padding: 6px 8px; min-height: 36px; }
input[type=checkbox] { width: auto; min-height: 0; }
button, .button { font: inherit; display: inline-block; color: var(--ground); background: var(--link); border: 1px solid var(--link); border-radius: 4px; padding: 6px 14px; min-height: 36px; cursor: pointer; text-decoration: none; }
button.plain, .button.plain { color: var(--link); background: transparent; border-color: var(--line); }
button.danger, .button.danger { background: var(--red); border-color: var(--red); }
.row { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin: 10px 0; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding-bottom: 4px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
td.wide { white-space: normal; overflow-wrap: anywhere; min-width: 180px; max-width: 480px; }
th { font-weight: 600; font-size: 13px; color: var(--soft); }
.facts { display: grid; gap: 8px 24px; grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr)); margin: 8px 0; }
.facts div { min-width: 0; }
dt { font-size: 13px; color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.status { font-weight: 600; }
.status.completed { color: var(--green); } .status.failed { color: var(--red); } .status.running { color: var(--amber); }
.status.pending, .status.cancelled { color: var(--grey); }
.problem { border-left: 4px solid var(--red); }
.counts { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0; padding: 0; list-style: none; }
code, pre, .mono { font-family: ui-monospace, monospace; font-size: 13px; }
pre { margin: 6px 0; padding: 10px; max-height: 420px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; }
pre[data-part=text]:empty::before { content: 'none'; color: var(--soft); font-family: system-ui, sans-serif; }
ol.events { list-style: none; margin: 6px 0; padding: 10px; max-height: 420px; overflow: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; }
ol.events li { overflow-wrap: anywhere; padding: 1px 0; content-visibility: auto; contain-intrinsic-size: auto 20px; }
.sources li { margin: 4px 0; overflow-wrap: anywhere; }
.chunk { border-top: 1px solid var(--line); padding: 10px 0; }
.chunk:target { background: var(--panel); outline: 2px solid var(--focus); outline-offset: 6px; }
.chunk pre { background: none; border: 0; padding: 0; max-height: none; }
@media (max-width: 600px) { main { padding: 12px 12px 60px; } header { padding: 8px 12px; } .who { margin-left: 0; width: 100%; } }
`;
