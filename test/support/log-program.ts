// A process that logs to its standard output: so many lines at once, then a word on standard error, and two more lines before
// it exits by itself as soon as its standard input ends.
import { createLog } from '../../src/observe/log.js';

const count = Number(process.argv[2]);
const filling = 'x'.repeat(900);
const log = createLog({ level: 'info', format: 'json' });

log.announce({ pid: process.pid }, 'first');
for (let number = 0; number < count; number++) log.info({ number, filling }, 'line');
process.stderr.write('all are said\n');
process.stdin.resume().once('end', () => {
  log.info('ending');
  log.info('last');
  process.exit(0);
});
