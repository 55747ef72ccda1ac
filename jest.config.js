const shared = {
  modulePathIgnorePatterns: ['<rootDir>/.cache', '<rootDir>/dist'],
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2023' }, module: { type: 'es6' } },
    ],
  },
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
};

/** @type {import('jest').Config} */
export default {
  projects: [
    // Needs nothing but Node.
    { ...shared, displayName: 'unit', testMatch: ['<rootDir>/test/unit/**/*.test.ts'] },
    // Needs Redis and a few programs that most machines have.
    { ...shared, displayName: 'core', testMatch: ['<rootDir>/test/{contract,redis,flow}/**/*.test.ts'] },
    // Needs the front proxies and application servers too, and the built program.
    { ...shared, displayName: 'whole', testMatch: ['<rootDir>/test/{e2e,chaos}/**/*.test.ts'] },
  ],
  testTimeout: 120_000,
  // Three are a quarter faster on two cores, but then a test that waits for a moment misses it now and then.
  maxWorkers: 2,
  // What suites leave behind makes every collection longer, until timers and servers' answers come too late.
  workerIdleMemoryLimit: '300MiB',
  testSequencer: '<rootDir>/test/support/suite-order.js',
  reporters: ['default', '<rootDir>/test/support/closing-line.js'],
};
