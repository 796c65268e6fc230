-- Makes an assured subscription, with a stream and its group that outlive the client. Retained events come where the
-- subscription is new, or where `always` says so. Only what is missing is made: one that comes back reads what waits
-- for it also from a server that has no memory left.
local client, filter, keep, always = unpack(ARGV)
local filters, queue, new = 'shunt:filters:' .. client, 'shunt:queue:' .. client, 0
if redis.call('SISMEMBER', 'shunt:clients', client) == 0 then
  redis.call('SADD', 'shunt:clients', client)
end
if redis.call('SISMEMBER', filters, filter) == 0 then
  redis.call('SADD', filters, filter)
  new = 1
end
redis.call('EXPIRE', filters, keep)
if redis.call('EXISTS', queue) == 0 or #redis.call('XINFO', 'GROUPS', queue) == 0 then
  redis.call('XGROUP', 'CREATE', queue, client, '0', 'MKSTREAM')
end
redis.call('EXPIRE', queue, keep)
redis.call('HDEL', 'shunt:full', client)
if new == 1 or always == '1' then
  local retained = redis.call('HGETALL', 'shunt:retained')
  for at = 1, #retained, 2 do
    if matches(split(filter), split(retained[at])) then
      add(client, retained[at], retained[at + 1])
    end
  end
end
return new
