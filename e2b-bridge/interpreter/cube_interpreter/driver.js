// SPDX-License-Identifier: Apache-2.0
// Runs JavaScript for javascript.py: one JSON object a line, {"code"} in; {"type": "stream" | "result" |
// "error" | "done"} out. The code has node's REPL's rules: top-level await, one global scope for all.
'use strict'

const readline = require('node:readline')
const repl = require('node:repl')
const { PassThrough } = require('node:stream')
const { inspect } = require('node:util')

const write = process.stdout.write.bind(process.stdout)
const send = (message) => write(JSON.stringify(message) + '\n')

for (const name of ['stdout', 'stderr']) {
  process[name].write = (chunk, encoding, callback) => {
    const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
    send({ type: 'stream', name, text })
    const done = typeof encoding === 'function' ? encoding : callback
    if (done) process.nextTick(done)
    return true
  }
}

const server = repl.start({ prompt: '', input: new PassThrough(), output: new PassThrough(), terminal: false, useGlobal: true, breakEvalOnSigint: true })

function shown(value) {
  const data = { 'text/plain': inspect(value) }
  if (typeof value === 'object' && value !== null) {
    try {
      const json = JSON.stringify(value)
      if (json !== undefined) data['application/json'] = JSON.parse(json)
    } catch {
      // Not everything can be JSON: the text says what it is.
    }
  }
  return data
}

let running = false

function ended(error, value) {
  if (!running) return
  running = false
  if (error) {
    // The REPL wraps what might be complete with one more line.
    const cause = error.err ?? error
    const name = cause?.name ?? 'Error'
    // The user's own frames, not those of node and of this file.
    const lines = (cause?.stack ?? inspect(cause)).split('\n').filter((line) => !/^ +at .*(node:|driver\.js)/.test(line))
    send({ type: 'error', ename: name, evalue: String(cause?.message ?? cause), traceback: lines })
  } else {
    if (value !== undefined) send({ type: 'result', data: shown(value) })
    send({ type: 'done' })
  }
}

// What the code throws at once goes to the REPL's domain, where there is one, which would print it.
server._domain?.removeAllListeners('error')
server._domain?.on('error', (error) => ended(error))
process.on('SIGINT', () => ended(new Error('interrupted')))
process.on('uncaughtException', (error) => ended(error))
process.on('unhandledRejection', (error) => ended(error))

const queue = readline.createInterface({ input: process.stdin })
queue.on('line', (line) => {
  running = true
  server.eval(JSON.parse(line).code + '\n', server.context, 'cell', ended)
})
queue.on('close', () => process.exit(0))
