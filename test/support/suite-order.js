import Sequencer from '@jest/test-sequencer';

/**
 * Jest's own order, slowest first, where earlier runs have measured the suites. Else those that start processes and mostly
 * wait come early, in turn with the others: begun last, they would leave cores idle at the end.
 */
export default class SuiteOrder extends Sequencer {
  sort(tests) {
    const sorted = super.sort(tests);
    if (sorted.every(({ duration }) => duration !== undefined)) return sorted;
    const isWaiting = ({ path }) => /\/test\/(chaos|e2e)\//.test(path);
    const waiting = sorted.filter(isWaiting);
    const others = sorted.filter((test) => !isWaiting(test));
    return others.flatMap((test, at) => [...waiting.slice(at, at + 1), test]).concat(waiting.slice(others.length));
  }
}
