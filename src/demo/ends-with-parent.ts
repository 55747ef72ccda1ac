// Loaded into the proxy of the demo: its standard input ends with the demo, so no proxy outlives a demo that was killed.
process.stdin
  .on('error', () => process.exit(0))
  .on('end', () => process.exit(0))
  .resume();
