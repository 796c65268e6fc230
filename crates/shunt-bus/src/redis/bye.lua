-- The client leaves in order. `keep`: its assured subscriptions, and what comes for them, wait for its next life.
local client, owner, keep, offline, bound = unpack(ARGV)
local current = redis.call('GET', 'shunt:alive:' .. client)
if current and current ~= owner then
  return 0
end
redis.call('DEL', 'shunt:alive:' .. client)
if keep ~= '1' then
  redis.call('SREM', 'shunt:clients', client)
  redis.call('DEL', 'shunt:filters:' .. client, 'shunt:queue:' .. client)
  forget(client)
end
if offline ~= '' then
  redis.call('HDEL', 'shunt:wills', client)
  tell(client, offline, bound)
end
return 1
