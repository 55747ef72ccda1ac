import { writeFileSync } from 'node:fs';
import { format, resolveConfig } from 'prettier';
import { chart } from './chart.js';
import { CONTESTS } from './contests.js';
import type { Table } from './report.js';
import { barsTable, contestTable, lastResults, type Results } from './results.js';

const PAGE = 'docs/performance.md';
const CHART = 'docs/performance.svg';

/** Makes the page from the results of the last runs. */
export async function writeDocs(): Promise<void> {
  const last = lastResults();
  const order = CONTESTS.map(({ name }) => name);
  const results = {
    ...last,
    contests: last.contests.toSorted((a, b) => order.indexOf(a.name) - order.indexOf(b.name)),
  };
  writeFileSync(CHART, chart(results.contests));
  writeFileSync(
    PAGE,
    await format(pageOf(results), { ...(await resolveConfig(PAGE)), parser: 'markdown', proseWrap: 'always' }),
  );
  console.log(`→ ${PAGE}, ${CHART}`);
}

/** The page as Markdown. */
export function pageOf(results: Results): string {
  const { machine, peers, contests, isQuick, rounds, at } = results;
  const versions = Object.entries(peers).map(([name, version]) => `${name} ${version}`);
  return `# Performance

<!-- Made by \`npm run bench -- --docs\` from the last run. -->

\`npm run bench\` starts rufh-proxy and other servers on one machine, lets the same client do the same with each of them,
and compares. \`npm run bench -- NAME\` holds one contest, and \`--quick\` all of them in less than four minutes. It installs
the other servers where it can, and says so where it cannot. It ends with 1 if a bar is missed.

${isQuick ? QUICK_WORD : ''}

**Machine.** ${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, ${Math.round(machine.memoryBytes / 2 ** 30)} GiB, load ${machine.load.toFixed(1)} before the run.
Node ${machine.node}, rufh-proxy at ${machine.commit ?? 'an unknown commit'}, ${at.slice(0, 10)}. ${versions.join(', ')}.

**Method.** Client, origin and all servers run on the same cores and talk over loopback. The contestants take turns
(A B A B …): one round to warm up, unless every run starts a fresh process, and ${rounds} that ${rounds === 1 ? 'counts' : 'count'}. A cell shows the median and the range. A run in which other
processes use more than 5 % of the machine is repeated, as often as there are rounds in a contest; what stays disturbed
is counted in the last column. CPU seconds are those of the server and its children, without client and origin. The client writes and
reads bare sockets; a last row without any server to judge shows how much it can do by itself. Where a run writes much, a file
is written and deleted before it: a virtual machine may have returned free memory to its host, and whoever uses it first
would pay for getting it back.

**Fair settings.** rufh-proxy runs with its defaults except for what a row names, in one process. It logs warnings only,
because the others write no access log (tusd always writes one, here to /dev/null). nginx, http-proxy and @tus/server
are one process each. tusd and Caddy are written in Go and use all cores, so compare their CPU too. nginx buffers whole
requests, as it does by default, and does not spool responses. No other server here forces bytes to the disk;
rufh-proxy does before it acknowledges them, unless a row says \`sync none\`. The system charges that work to the process
that asks for it; what the others write, it writes later in its own threads, whose CPU is in no column.

## Bars

${markdown(barsTable(contests))}

![The first figure of every contest](performance.svg)

${contests.map((result) => `## ${result.name}\n\n**${result.title}.** ${result.method}\n\n${markdown(contestTable(result))}`).join('\n\n')}
`;
}

const QUICK_WORD =
  '**These figures are provisional.** They come from a quick run with smaller sizes, on a machine that had other work to do.';

function markdown({ columns, rows, notes = [] }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const rule = columns.map((_, at) => (at === 0 ? '---' : '--:'));
  const list = notes.map((note) => `- ${note}`);
  return [line(columns), line(rule), ...rows.map(line), '', ...list].join('\n');
}
