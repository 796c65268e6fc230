-- Publishes an assured event once, however often it is sent. Returns how many have subscribed to it, -1 if it was
-- published before, or the name of a client that is there and whose stream is full; then nothing was done.
-- `lowest`: the publisher has the answers to all numbers below.
local publisher, number, lowest, topic, event, retain, bound, patience, keep = unpack(ARGV)
local sent = 'shunt:sent:' .. publisher
-- What is below was answered on another connection than this one, which the server read only now.
local floor = tonumber(redis.call('ZSCORE', sent, 'floor') or '0')
if tonumber(number) < floor or redis.call('ZSCORE', sent, number) then
  return -1
end
local clients = takers(topic)
for _, client in ipairs(clients) do
  if is_full(client, bound) and redis.call('EXISTS', 'shunt:alive:' .. client) == 1 then
    local now = tonumber(redis.call('TIME')[1])
    local since = tonumber(redis.call('HGET', 'shunt:full', client) or '')
    if not since then
      redis.call('HSET', 'shunt:full', client, now)
    end
    -- One that acknowledges nothing for so long stops the others no more.
    if not since or now - since < tonumber(patience) then
      return client
    end
  end
end
redis.call('ZADD', sent, number, number, lowest, 'floor')
redis.call('ZREMRANGEBYSCORE', sent, '-inf', '(' .. lowest)
redis.call('EXPIRE', sent, keep)
if retain == '1' then
  redis.call('HSET', 'shunt:retained', topic, event)
end
return deliver(topic, event, clients, bound)
